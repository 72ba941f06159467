with

orders as (

    select * from {{ ref('stg_shop__orders') }}

)

select * from orders
