"""
``python -m emit.dev.describe app.router``: print the files of a router's programs, as JSON. In a
process of its own, since the modules of a router can be imported only once in a process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

from emit.cli import guarded
from emit.cli.target import load_router
from emit.multilang import ShellNode
from emit.router import Router


def main() -> int:
    """Print a map of paths to the nodes whose programs they are."""
    router = load_router(sys.argv[1])
    print(json.dumps(dict(files_of(router))))
    return 0


def files_of(router: Router) -> Iterator[tuple[str, str]]:
    """Yield the path of each file or folder that is a program, or a word of a command."""
    for name, node in router._nodes.items():
        seam = node.seam
        if not isinstance(seam, ShellNode):
            continue
        if seam.file is not None:
            yield str(seam._located().path), name
            continue
        for word in seam.get_command():
            path = os.path.abspath(os.path.join(seam.get_cwd() or "", word))
            if os.path.isfile(path):
                yield path, name


if __name__ == "__main__":
    sys.exit(guarded("emit dev", main))
