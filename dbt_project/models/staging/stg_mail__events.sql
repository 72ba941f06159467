with

source as (

    select * from {{ source('mail', 'events') }}

),

renamed as (

    select

        ---------- ids
        event_id,
        message_id,
        action_id,
        contact_id,

        ---------- text
        event_type,
        template,
        topic,
        link,

        ---------- numerics
        hour_propensity,

        ---------- timestamps
        occurred_at,
        _loaded_at as loaded_at

    from source

)

select * from renamed
