"""The flows do: time, state, warehouse and Prefect.

The modules of this folder are thin Prefect flows; what they call lives in `engine`, `journal` and `warehouse`
and works without Prefect.
"""
