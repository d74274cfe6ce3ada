"""
``emit dev``: run a command or a sample message, and take edits over as they are saved.

=============  ==========================================================================
``child``      in the processes of the command: hands the log of nodes to ``emit dev``
``describe``   in a process of its own: tells the files of a router's programs
``lines``      the output: prefixes, colours, the author's line of an error
``service``    a command that is started, stopped and started again
``session``    watches the files, and decides what an edit means
=============  ==========================================================================
"""
