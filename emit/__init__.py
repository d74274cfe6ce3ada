"""
Emit: a streaming graph whose nodes can be written in any language.

::

    router(text=...)
       |                                  Router.route: who has subscribed?
       v
    [ words ]  --word-->  [ count ]       a node: message in, results out; each result
       |                                  goes to the node's subscribers
       +-------word-->  [ stem.rb ]       a ShellNode is a node in another program
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from emit.errors import Reject, Retry
from emit.message import Message, NoResult
from emit.router import Router

if TYPE_CHECKING:
    from emit.multilang import ShellNode
    from emit.once import idempotent
    from emit.router.celery import CeleryRouter
    from emit.router.rq import RQRouter

__version__ = "0.5.0"

__all__ = [
    "CeleryRouter",
    "Message",
    "NoResult",
    "RQRouter",
    "Reject",
    "Retry",
    "Router",
    "ShellNode",
    "__version__",
    "idempotent",
]


#: Imported on first use. A graph of Python functions needs no queue and no host, and the host
#: takes as long to import as everything else together.
_LATER = {
    "CeleryRouter": "emit.router",
    "RQRouter": "emit.router",
    "ShellNode": "emit.multilang",
    "idempotent": "emit.once",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'emit' has no attribute {name!r}")


if os.environ.get("EMIT_DEV"):  # this process was started by `emit dev`, which shows its log
    import_module("emit.dev.child").begin()
