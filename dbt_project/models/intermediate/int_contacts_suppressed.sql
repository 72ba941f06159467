with

suppressions as (

    select * from {{ ref('stg_mail__suppressions') }}

),

aggregated as (

    select
        contact_id,
        bool_or(reason = 'unsubscribed') as is_unsubscribed,
        bool_or(reason = 'bounced') as is_bounced,
        max(loaded_at) as loaded_at

    from suppressions
    group by contact_id

)

select * from aggregated
