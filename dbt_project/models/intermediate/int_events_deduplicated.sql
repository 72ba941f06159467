{{ config(materialized='table') }}

with

events as (

    select * from {{ ref('fct_events') }}

),

first_copies as (

    -- An export may deliver a row again: the first copy counts.
    select distinct on (event_id) *
    from events
    order by event_id, loaded_at

)

select * from first_copies
