with

contacts as (

    select * from {{ ref('dim_contacts') }}

),

messages as (

    select * from {{ ref('int_mail_reactions') }}

),

zones as (

    select name as timezone from pg_timezone_names()

),

located as (

    select
        messages.*,
        -- A name that is no time zone counts as missing.
        coalesce(zones.timezone, 'UTC') as timezone
    from messages
    inner join contacts
        on messages.contact_id = contacts.contact_id
    left join zones
        on contacts.timezone = zones.timezone
    where messages.sent_at is not null

),

localised as (

    select
        contact_id,
        extract(hour from timezone(timezone, timezone('UTC', sent_at))) as local_hour,
        hour_propensity,
        opened_at,
        clicked_at
    from located

),

aggregated as (

    select

        ---------- ids
        contact_id,
        local_hour,

        ---------- numerics
        count(*) as message_count,
        count(opened_at) as open_count,
        count(clicked_at) as click_count,
        avg(hour_propensity) as mean_propensity

    from localised
    group by contact_id, local_hour

)

select * from aggregated
