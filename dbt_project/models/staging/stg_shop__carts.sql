with

source as (

    select * from {{ source('shop', 'carts') }}

),

renamed as (

    select

        ---------- ids
        cart_id,
        contact_id,

        ---------- text
        status,

        ---------- numerics
        item_count,
        cart_value,

        ---------- timestamps
        created_at,
        updated_at,
        _loaded_at as loaded_at

    from source

)

select * from renamed
