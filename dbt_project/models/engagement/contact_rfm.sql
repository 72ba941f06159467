with

contacts as (

    select * from {{ ref('dim_contacts') }}

),

orders as (

    select * from {{ ref('fct_orders') }}
    where status = 'paid'

),

-- The newest order stands for today: the model gives the same rows whenever it is built on the same data.
as_of as (

    select max(ordered_at) as as_of_at from orders

),

aggregated as (

    select
        contact_id,
        count(*) as order_count,
        sum(amount) as revenue,
        max(ordered_at) as last_ordered_at
    from orders
    group by contact_id

),

measured as (

    select

        ---------- ids
        contacts.contact_id,

        ---------- numerics
        coalesce(aggregated.order_count, 0) as order_count,
        coalesce(aggregated.revenue, 0) as revenue,
        as_of.as_of_at::date - aggregated.last_ordered_at::date as days_since_order,

        ---------- timestamps
        aggregated.last_ordered_at

    from contacts
    cross join as_of
    left join aggregated
        on contacts.contact_id = aggregated.contact_id

),

ranked as (

    select
        *,
        case
            when order_count > 0
                then ntile(5) over (partition by order_count > 0 order by last_ordered_at, contact_id)
        end as recency_score,
        case
            when order_count > 0
                then ntile(5) over (partition by order_count > 0 order by order_count, contact_id)
        end as frequency_score,
        case
            when order_count > 0
                then ntile(5) over (partition by order_count > 0 order by revenue, contact_id)
        end as monetary_score
    from measured

)

select * from ranked
