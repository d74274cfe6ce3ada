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

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emit.message import Message, NoResult
from emit.router import Router

if TYPE_CHECKING:
    from emit.multilang import ShellNode
    from emit.once import idempotent

__version__ = "0.5.0"

__all__ = ["Message", "NoResult", "Router", "ShellNode", "__version__", "idempotent"]


def __getattr__(name: str) -> Any:
    # A graph of Python functions needs no host, which takes as long to import as all the rest.
    if name == "ShellNode":
        return import_module("emit.multilang").ShellNode
    if name == "idempotent":
        return import_module("emit.once").idempotent
    raise AttributeError(f"module 'emit' has no attribute {name!r}")
