"""Warehouses: one small interface, one file per adapter. Credentials come from dbt's profiles.yml."""
