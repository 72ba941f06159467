with

source as (

    select * from {{ source('shop', 'orders') }}

),

renamed as (

    select

        ---------- ids
        order_id,
        contact_id,
        cart_id,

        ---------- text
        status,
        currency,
        discount_code,

        ---------- numerics
        amount,
        item_count,

        ---------- timestamps
        ordered_at,
        updated_at,
        _loaded_at as loaded_at

    from source

)

select * from renamed
