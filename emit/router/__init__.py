"""The routers: :class:`Router` runs a graph in this process."""

from emit.router.core import Router

__all__ = ["Router"]
