"""Warehouse adapters: one small interface, one file per warehouse."""
