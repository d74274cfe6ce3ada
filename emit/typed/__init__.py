"""
The types of nodes' fields: what a router declares and what programs tell, as JSON Schema; the edges
that can't fit; contracts; and types for other languages.

The router itself knows only the names of fields. ``validate=True`` imports
:mod:`emit.typed.validation`, and the command line imports the rest. Types of Python need msgspec:
``pip install 'emit-graph[typed]'``.
"""
