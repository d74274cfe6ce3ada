"""The routers: :class:`Router` runs a graph in this process; others use a queue."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emit.router.core import Router

if TYPE_CHECKING:
    from emit.router.celery import CeleryRouter
    from emit.router.rq import RQRouter

__all__ = ["CeleryRouter", "RQRouter", "Router"]

#: Imported on first use, since most installations have one queue or none.
_LATER = {"CeleryRouter": "emit.router.celery", "RQRouter": "emit.router.rq"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'emit.router' has no attribute {name!r}")
    try:
        return getattr(import_module(_LATER[name]), name)
    except ModuleNotFoundError as error:
        extra = _LATER[name].rpartition(".")[2]
        raise ModuleNotFoundError(
            f"{name} needs {error.name}, which is not installed: pip install 'emit-graph[{extra}]'",
            name=error.name,
        ) from error
