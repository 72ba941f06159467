{{ config(materialized='table') }}

with

events as (

    select distinct on (event_id) *
    from {{ ref('stg_mail__events') }}
    order by event_id, loaded_at

),

messages as (

    select
        message_id,
        contact_id,
        min(template) as template,
        min(topic) as topic,
        min(hour_propensity) as hour_propensity,
        min(occurred_at) filter (where event_type in ('sent', 'delivered')) as sent_at,
        min(occurred_at) filter (where event_type = 'opened') as opened_at,
        min(occurred_at) filter (where event_type = 'clicked') as clicked_at,
        min(occurred_at) filter (where event_type = 'replied') as replied_at,
        bool_or(event_type = 'machine_opened') as is_machine_opened,
        bool_or(event_type = 'bounced') as is_bounced,
        bool_or(event_type = 'unsubscribed') as is_unsubscribed

    from events
    group by message_id, contact_id

)

select * from messages
