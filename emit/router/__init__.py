"""The routers: :class:`Router` runs a graph in this process; others use a queue."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emit.router.core import Router

if TYPE_CHECKING:
    from emit.router.celery import CeleryRouter
    from emit.router.rq import RQRouter

__all__ = ["CeleryRouter", "RQRouter", "Router"]

#: Imported when they are asked for, since most installations have one queue or none.
_LATER = {"CeleryRouter": "emit.router.celery", "RQRouter": "emit.router.rq"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'emit.router' has no attribute {name!r}")
