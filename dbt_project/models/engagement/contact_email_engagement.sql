with

messages as (

    select * from {{ ref('int_mail_reactions') }}

),

aggregated as (

    select

        ---------- ids
        contact_id,

        ---------- numerics
        count(*) as message_count,
        count(opened_at) as open_count,
        count(clicked_at) as click_count,
        count(replied_at) as reply_count,
        count(*) filter (where is_machine_opened) as machine_open_count,
        1.0 * count(opened_at) / count(*) as open_rate,
        1.0 * count(clicked_at) / count(*) as click_rate,

        ---------- booleans
        bool_or(is_bounced) as has_bounced,
        bool_or(is_unsubscribed) as has_unsubscribed,

        ---------- timestamps
        max(sent_at) as last_sent_at,
        max(opened_at) as last_opened_at,
        max(clicked_at) as last_clicked_at

    from messages
    group by contact_id

)

select * from aggregated
