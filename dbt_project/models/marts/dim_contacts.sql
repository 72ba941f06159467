with

contacts as (

    select * from {{ ref('stg_crm__contacts') }}

),

suppressed as (

    select * from {{ ref('int_contacts_suppressed') }}

),

joined as (

    select

        ---------- ids
        contacts.contact_id,

        ---------- text
        contacts.first_name,
        contacts.last_name,
        contacts.email,
        contacts.phone,
        contacts.timezone,
        contacts.country,
        contacts.plan,
        contacts.lifecycle_stage,
        contacts.owner_email,

        ---------- booleans
        contacts.email_consent,
        contacts.sms_consent,
        coalesce(suppressed.is_unsubscribed, false) as is_unsubscribed,
        coalesce(suppressed.is_bounced, false) as is_bounced,

        ---------- timestamps
        contacts.created_at,
        -- When the warehouse last learned something about the contact, not when it happened.
        greatest(contacts.loaded_at, coalesce(suppressed.loaded_at, contacts.loaded_at)) as updated_at

    from contacts
    left join suppressed
        on contacts.contact_id = suppressed.contact_id

)

select * from joined
