"""The repository itself: packaging, contracts, Makefile, hooks."""
