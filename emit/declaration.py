"""What is wrong with the declaration of a program as a node. Starts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from types import FunctionType
from typing import Any

from emit.errors import GraphError
from emit.host.system.environment import environment


def check_file(name: str, file: Any, command: Any, mode: str) -> None:
    """
    Raises:
        GraphError: *file* is no path, or stands beside what it excludes.
    """
    about = f'"{name}": file = {file!r}'
    if command:
        raise GraphError(f"{about} and command = {command!r}: give one of them")
    if not isinstance(file, (str, os.PathLike)):
        raise GraphError(f"{about}: must be a path, such as 'nodes/words.rb'")
    if mode == "lines":
        raise GraphError(f'{about} has no mode = "lines": its launcher speaks frames')


def check_command(
    name: str, command: Any, split: Callable[[], Any], wrong: Mapping[str, str]
) -> None:
    """
    Args:
        name: The node's.
        command: As it was given; empty: it was not.
        split: Makes a list of it.
        wrong: Names that were given, and the settings that were meant, for the error.

    Raises:
        GraphError: It names no program.
    """
    if command == ():
        meant = "; ".join(f"is {given} meant to be {setting}?" for given, setting in wrong.items())
        raise GraphError(
            f'"{name}": neither a command nor a file is given, such as '
            f"file = 'nodes/words.rb'{meant and '; '}{meant}"
        )
    try:
        words = split()
    except (ValueError, TypeError) as error:
        raise GraphError(f'"{name}": command = {command!r}: {error}') from error
    if not words or not all(isinstance(word, str) for word in words):
        raise GraphError(
            f'"{name}": command must be a string or a list of strings, such as '
            f"'ruby words.rb', not {command!r}; or give a file, such as 'words.rb'"
        )


def own_attributes(node: object, base: type) -> set[str]:
    """
    What its author has added to a node: on the object, and on its classes below *base*. Not what
    his own methods read, by which he shows that it is meant to be there.
    """
    classes = [cls for cls in type(node).__mro__ if issubclass(cls, base) and cls is not base]
    methods = [x for cls in classes for x in vars(cls).values() if isinstance(x, FunctionType)]
    read = {name for method in methods for name in method.__code__.co_names}
    given = set(vars(node)).union(*map(vars, classes))
    return {name for name in given - read - set(dir(base)) if not name.startswith("_")}


def check_cwd(name: str, cwd: Any) -> None:
    """
    Raises:
        GraphError: It is no path.
    """
    if not isinstance(cwd, (str, os.PathLike, type(None))):
        raise GraphError(f'"{name}": cwd must be a path, not {cwd!r}')


def check_env(name: str, env: Mapping[str, str], pass_env: Sequence[str]) -> None:
    """
    Raises:
        GraphError: A name or a value that no environment can hold.
    """
    try:
        environment(env, pass_env)
    except (TypeError, ValueError) as error:
        raise GraphError(f'"{name}": {error}') from error


def check_dead_letter(name: str, dead_letter: Any) -> None:
    """
    Raises:
        GraphError: It can't be called with one letter.
    """
    if dead_letter is not None and not _takes_one(dead_letter):
        raise GraphError(
            f'"{name}": dead_letter must be a function of one argument, the letter (a '
            f"function in a class also gets self; staticmethod(function) does not)"
        )


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # some builtins have no signature
        return True
    return True
