"""Finding the router that a command line names: ``app.router`` is router in the module app."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emit.cli.errors import TargetError
from emit.cli.failure import describe_failure
from emit.errors import GraphError
from emit.router import Router
from emit.text import clean


def load_router(path: str) -> Router:
    """
    Import a router by its dotted path, the current directory being importable.

    Raises:
        TargetError: No such module, no such attribute, or it is no router; or its module, or one
            of its node_modules, failed while it was imported: the text has the author's frames.
        GraphError: A node of it is declared wrongly.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module_name, _, attribute = path.rpartition(".")
    if not module_name or path.startswith("."):
        raise TargetError(f'"{path}" is not of the form module.router, such as app.router')
    router = _attribute(_module(module_name, path), attribute, path)
    if not isinstance(router, Router):
        raise TargetError(f'"{path}" is no router, but of type {type(router).__name__}')
    with _importing(f'"{path}": one of its node_modules'):
        router.resolve_node_modules()
    return router


@contextmanager
def _importing(what: str) -> Iterator[None]:
    try:
        yield
    except (GraphError, TargetError):
        raise  # they are for the user as they are
    except Exception as error:
        described = "\n".join(map(clean, describe_failure(error)))
        raise TargetError(f"{what} can't be imported: {described}") from error


def _module(name: str, path: str) -> Any:
    with _importing(f'"{path}": the module {name}'):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module that exists but imports one that does not is a fault of its own.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise TargetError(
                f'"{path}": there is no module {error.name} here or on the Python path '
                f"(looked from {os.getcwd()})"
            ) from error


def _attribute(module: Any, attribute: str, path: str) -> Any:
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        routers = [name for name, value in vars(module).items() if isinstance(value, Router)]
        hint = f" (its routers: {', '.join(routers)})" if routers else ""
        raise TargetError(
            f'"{path}": the module {module.__name__} has no {attribute}{hint}'
        ) from error
