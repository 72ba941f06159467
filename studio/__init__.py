"""The studio shows: command line, web API and builder."""
