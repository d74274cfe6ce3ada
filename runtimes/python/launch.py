"""Serve a Python file as a node, though it imports nothing of Emit: launch.py FILE [FUNCTION]."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main(path, function=""):
    if sys.path[0] == HERE:
        del sys.path[0]
    # A copy of the SDK beside the file, or an installed one, wins. What else is beside it is not to
    # be found before the SDK is loaded: a string.py would be taken for Python's own.
    copy = os.path.join(os.path.dirname(os.path.abspath(path)), "emit_sdk.py")
    if os.path.exists(copy) and not os.path.samefile(copy, path):
        sdk = load("emit_sdk", copy)
    else:
        sys.path.append(os.path.join(HERE, "..", "..", "sdks", "python"))
        import emit_sdk as sdk

        sys.path.pop()
    sdk.boot(path, function)


def load(name, path):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, path)
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
