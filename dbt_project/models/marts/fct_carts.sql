with

carts as (

    select * from {{ ref('stg_shop__carts') }}

)

select * from carts
