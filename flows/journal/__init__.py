"""The journal: Penstock's state as tables in the warehouse, their identities and their numbered migrations."""
