with

source as (

    select * from {{ source('crm', 'contacts') }}

),

renamed as (

    select

        ---------- ids
        contact_id,

        ---------- text
        first_name,
        last_name,
        email,
        phone,
        time_zone as timezone,
        country,
        plan,
        lifecycle_stage,
        owner_email,

        ---------- booleans
        email_consent,
        sms_consent,

        ---------- timestamps
        created_at,
        updated_at,
        _loaded_at as loaded_at

    from source

)

select * from renamed
