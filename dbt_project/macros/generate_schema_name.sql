{# Seeds go to `reference`, models to the target's schema: names say what a schema holds, not who built it. #}

{% macro generate_schema_name(custom_schema_name, node) %}
  {%- if custom_schema_name is none -%} {{ target.schema }} {%- else -%} {{ custom_schema_name | trim }} {%- endif -%}
{% endmacro %}
