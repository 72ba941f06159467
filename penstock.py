"""Penstock: customer automation and reverse ETL that run inside the data warehouse.

This module is the public Python facade and nothing else. Whatever a notebook or another project may rely on is named
in `__all__`; every other module of the distribution is internal.

    import penstock

    p = penstock.Project()                                # or penstock.demo()
    p["abandoned_cart"].steps                             # polars
    p.audience("lifecycle_stage = 'customer'").frame      # polars; .sql, .count()
    p.log("abandoned_cart", since="7d")
    p.funnel("abandoned_cart")
    penstock.backtest("abandoned_cart", since="90d", project=p).steps
    penstock.identity("c1", secret=...)                   # who a visitor of a web page is, signed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.facade import Audience, Backtest, Project, Workflow, backtest, demo, identity

__all__ = ["Audience", "Backtest", "Project", "Workflow", "__version__", "backtest", "demo", "identity"]

__version__ = "0.1.0"
"""The version of this distribution (SemVer)."""


def __getattr__(name: str) -> Any:
    """Loads what is heavy when it is used for the first time."""
    if name in __all__:
        from studio import facade

        return getattr(facade, name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
