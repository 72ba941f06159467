with

source as (

    select * from {{ source('web', 'events') }}

),

renamed as (

    select

        ---------- ids
        event_id,
        contact_id,
        cart_id,
        order_id,

        ---------- text
        event_type,
        page,
        list_name,
        properties,

        ---------- numerics
        amount,
        item_count,
        stars,

        ---------- timestamps
        occurred_at,
        _loaded_at as loaded_at

    from source

)

select * from renamed
