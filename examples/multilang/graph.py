"""One node in two other programs: each emits the numbers below ``count``."""

import shutil

from emit import Router
from emit.errors import StartError
from emit.multilang import ShellNode

router = Router()


@router.node(("n",))
class PythonShellNode(ShellNode):
    command = "python3 test.py"


@router.node(("n",))
class RubyShellNode(ShellNode):
    command = "bundle exec ruby test.rb" if shutil.which("bundle") else "ruby test.rb"


if __name__ == "__main__":
    for node in (PythonShellNode, RubyShellNode):
        try:
            print(node.__name__, node(count=3))
        except StartError as error:
            print("left out:", error)
