with

web_events as (

    select * from {{ ref('stg_web__events') }}

),

mail_events as (

    select * from {{ ref('stg_mail__events') }}

),

unioned as (

    select
        event_id,
        contact_id,
        event_type as event_name,
        occurred_at,
        loaded_at,
        null::text as action_id,
        null::text as template,
        page,
        cart_id,
        order_id,
        amount,
        item_count,
        list_name as list,
        stars,
        properties::json as props
    from web_events

    union all

    select
        event_id,
        contact_id,
        'email_' || event_type as event_name,
        occurred_at,
        loaded_at,
        action_id,
        template,
        link as page,
        null::text as cart_id,
        null::text as order_id,
        null::double precision as amount,
        null::bigint as item_count,
        null::text as list,
        null::bigint as stars,
        ('{"topic": ' || to_json(topic)::text || '}')::json as props
    from mail_events

)

select * from unioned
