with

source as (

    select * from {{ source('crm', 'stage_changes') }}

),

renamed as (

    select

        ---------- ids
        change_id,
        contact_id,

        ---------- text
        from_stage,
        to_stage,

        ---------- timestamps
        changed_at,
        _loaded_at as loaded_at

    from source

)

select * from renamed
