"""Penstock: customer automation and reverse ETL that run inside the data warehouse.

This module is the public Python facade and nothing else. Whatever a notebook or another project may rely on is named
in `__all__`; every other module of the distribution is internal.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
"""The version of this distribution (SemVer)."""
