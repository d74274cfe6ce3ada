"""
The running graph in a browser: ``emit ui app.router``, or :func:`app` in an application of one's
own. Install it with ``pip install 'emit-graph[web]'``.

Nothing in the core imports this package.
"""

from emit.web.server import app

__all__ = ["app"]
