"""The compiler decides: workflow YAML and SQL conditions become a plan and SQL.

Pure: no files, no sockets, no clock, no warehouse. Tables, columns and capabilities are handed in as a `Catalog` value.
"""
