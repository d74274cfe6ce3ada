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

from emit.message import Message, NoResult
from emit.multilang import ShellNode
from emit.router import Router

__version__ = "0.5.0"

__all__ = ["Message", "NoResult", "Router", "ShellNode", "__version__"]
