with

carts as (

    select * from {{ ref('fct_carts') }}
    where status = 'converted'

),

orders as (

    select * from {{ ref('fct_orders') }}

)

select carts.cart_id
from carts
left join orders
    on carts.cart_id = orders.cart_id
where orders.order_id is null
