with

source as (

    select * from {{ source('mail', 'suppressions') }}

),

renamed as (

    select

        ---------- ids
        contact_id,

        ---------- text
        reason,

        ---------- timestamps
        suppressed_at,
        _loaded_at as loaded_at

    from source

)

select * from renamed
