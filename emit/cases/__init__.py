"""
Cases: messages of a node with the results that it gave, recorded in a file, to be given to the node
again as tests. ``emit record`` writes them; ``emit replay``, ``emit test`` and pytest run them.
"""
