{{ config(materialized='table') }}

with

events as (

    select * from {{ ref('fct_events') }}

),

first_copies as (

    select *
    from events
    -- An export may deliver a row again: the first copy counts.
    qualify row_number() over (partition by event_id order by loaded_at) = 1

)

select * from first_copies
