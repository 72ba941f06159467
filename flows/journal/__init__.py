"""The journal: Penstock's state as numbered-migration tables in the warehouse (a public, versioned contract)."""
