"""Serve a Python file as a node, though it imports nothing of Emit: launch.py FILE [FUNCTION]."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main(path, function=""):
    # As `python FILE` would have it; a copy of the SDK beside the file, or an installed one, wins.
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    sys.path.append(os.path.join(HERE, "..", "..", "sdks", "python"))
    import emit_sdk

    sys.path.pop()
    emit_sdk.boot(path, function)


if __name__ == "__main__":
    main(*sys.argv[1:])
