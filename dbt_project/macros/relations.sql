{# Views keep the names they were made with. Without the database name a copied or renamed DuckDB file still works. #}

{% macro ref() %}
  {% set version = kwargs.get('version') or kwargs.get('v') %}
  {% if varargs | length == 2 %}
    {% set relation = builtins.ref(varargs[0], varargs[1], version=version) %}
  {% else %}
    {% set relation = builtins.ref(varargs[0], version=version) %}
  {% endif %}
  {% do return(relation.include(database=false)) %}
{% endmacro %}

{% macro source(source_name, table_name) %}
  {% do return(builtins.source(source_name, table_name).include(database=false)) %}
{% endmacro %}
