-- What was paid is the sum of the lines, less a discount.
with

orders as (

    select * from {{ ref('fct_orders') }}

),

lines as (

    select
        order_id,
        sum(line_amount) as amount
    from {{ ref('stg_shop__order_lines') }}
    group by order_id

)

select orders.order_id
from orders
inner join lines
    on orders.order_id = lines.order_id
where
    orders.amount > lines.amount + 0.005
    or (orders.discount_code is null and orders.amount < lines.amount - 0.005)
