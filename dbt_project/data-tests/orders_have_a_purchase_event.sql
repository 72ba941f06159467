-- The shop and the web tracker must tell the same story; the tracker may be up to three days late.
with

orders as (

    select * from {{ ref('fct_orders') }}

),

newest as (

    select max(ordered_at) as ordered_at from orders

),

purchases as (

    select distinct order_id
    from {{ ref('fct_events') }}
    where event_name = 'purchase'

)

select orders.order_id
from orders
cross join newest
left join purchases
    on orders.order_id = purchases.order_id
where
    purchases.order_id is null
    and orders.ordered_at < newest.ordered_at - interval '3' day
