"""What to install, told from the words of a program that could not load something."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = ["describe_missing"]

#: How each language says that there is no such library, our SDK's name there, and what may bring
#: it. What was named by its path, as by ``require_relative``, is not matched: nobody installs that.
_MISSING = (
    (
        re.compile(r"\bcannot load such file -- ([\w-]+)"),
        "emit",
        "gem install {}",
        ", or list it in a Gemfile beside the file and run bundle install",
    ),
    (
        re.compile(r"\bModuleNotFoundError: No module named '(\w+)"),
        "emit_sdk",
        "{python} -m pip install {}",
        "",
    ),
    (
        re.compile(r"\bCannot find (?:package|module) '((?:@[\w.-]+/)?[\w-][\w.-]*)"),
        "emit-graph-sdk",
        "npm install {}",
        ", in the folder of the file",
    ),
)


def describe_missing(said: str, argv: Sequence[str]) -> str:
    """
    A hint for a program that could not load a library, or "".

    Args:
        said: What it told of its failure, or wrote to stderr.
        argv: Its command: of a Python it is that one's pip that has to install.

    Example:
        >>> describe_missing("LoadError: cannot load such file -- emit", ["ruby", "count.rb"])
        'install the SDK, as by: gem install emit-graph-sdk; or say file =, which lends it'
        >>> describe_missing("Cannot find package 'ms' imported from /a.mjs", ["node", "a.mjs"])
        'install it, as by: npm install ms, in the folder of the file'
    """
    program = argv[0] if argv else ""
    python = program if os.path.basename(program).startswith("python") else "python"
    for pattern, sdk, install, more in _MISSING:
        if found := pattern.search(said):
            if found[1] == sdk:
                command = install.format("emit-graph-sdk", python=python)
                return f"install the SDK, as by: {command}; or say file =, which lends it"
            return f"install it, as by: {install.format(found[1], python=python)}{more}"
    return ""
