{# Passes if the expression is true on every row; NULL is not true. #}

{% test expression_is_true(model, expression, column_name=none) %}
select *
from {{ model }}
where not coalesce({{ column_name or '' }} {{ expression }}, false)
{% endtest %}
