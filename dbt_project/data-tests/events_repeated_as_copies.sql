-- An event id may come twice, but only as a copy: nothing but the time of loading may differ.
with

events as (

    select * from {{ ref('fct_events') }}

),

contents as (

    select distinct
        event_id,
        contact_id,
        event_name,
        occurred_at,
        cart_id,
        amount
    from events

)

select event_id
from contents
group by event_id
having count(*) > 1
