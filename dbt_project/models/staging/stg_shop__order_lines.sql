with

source as (

    select * from {{ source('shop', 'order_lines') }}

),

renamed as (

    select

        ---------- ids
        order_id,
        line_no,
        product_id,

        ---------- numerics
        quantity,
        unit_price,
        quantity * unit_price as line_amount,

        ---------- timestamps
        _loaded_at as loaded_at

    from source

)

select * from renamed
