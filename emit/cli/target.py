"""Find the router of a command line: ``app.router`` is the variable router of the module app."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from emit.cli.output import TargetError, describe_failure
from emit.errors import GraphError
from emit.router import Router
from emit.text import clean, nearest

#: The variable that names a Django project's settings. Celery reads the same one.
_DJANGO = "DJANGO_SETTINGS_MODULE"


def load_router(path: str) -> Router:
    """
    Import a router by its dotted path. Modules of the current directory can be imported.

    Django is set up first if the environment names its settings. If the router's module sets them,
    as the module of a Celery app does, Django is set up right after: node_modules may have models.

    Raises:
        TargetError: The module or the attribute does not exist, or is not a router; or the import
            of the module or of a node_module failed. The text has the author's stack frames.
        GraphError: A node of the router is declared wrongly.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise TargetError(f'"{path}": the current directory has been removed') from error
    if here not in sys.path:
        sys.path.insert(0, here)
    module_name, _, attribute = path.rpartition(".")
    if ":" in path:
        head, _, tail = path.partition(":")
        meant = f"say the router alone, {head}" if "." in head else f"write {head}.{tail}"
        raise TargetError(f'"{path}" is not of the form module.router: {meant}')
    if not module_name or path.startswith("."):
        raise TargetError(f'"{path}" is not of the form module.router, such as app.router')
    _set_up_django()
    router = _attribute(_module(module_name, path), attribute, path)
    if not isinstance(router, Router):
        raise TargetError(f'"{path}" is no router, but of type {type(router).__name__}')
    _set_up_django()
    with _importing(f'"{path}": one of its node_modules'):
        router.resolve_node_modules()
        if not router.node_modules and hasattr(router, "import_tasks"):
            router.import_tasks()  # a CeleryRouter: its app finds the nodes
    return router


def _set_up_django() -> bool:
    """
    Let Django load its settings and apps, as `manage.py` and Celery do.

    Returns:
        True if this call has set it up; False if it was set up before, or if there are no settings
        or no Django.

    Raises:
        TargetError: Django can't be set up.
    """
    settings = os.environ.get(_DJANGO)
    if not settings:
        return False
    try:
        django: Any = importlib.import_module("django")
        apps: Any = importlib.import_module("django.apps").apps
    except ModuleNotFoundError:  # a router that needs Django fails at its own import
        return False
    if apps.ready:
        return False
    try:
        django.setup()
    except Exception as error:
        if _is_part(error, settings):
            raise TargetError(
                f"{_DJANGO} is {settings}, and there is no module {error.name} here or on the "
                f"Python path (looked from {os.getcwd()}){_near(str(error.name))}"
            ) from error
        described = "\n".join(map(clean, describe_failure(error)))
        raise TargetError(
            f"{_DJANGO} is {settings}, but Django can't be set up: {described}"
        ) from error
    return True


@contextmanager
def _importing(what: str) -> Iterator[None]:
    try:
        yield
    except (GraphError, TargetError):
        raise  # their texts are for the user as they are
    except Exception as error:
        described = "\n".join(map(clean, describe_failure(error)))
        raise TargetError(f"{what} can't be imported: {described}") from error


def _module(name: str, path: str) -> Any:
    with _importing(f'"{path}": the module {name}'):
        try:
            return _import(name)
        except ModuleNotFoundError as error:
            if not _is_part(error, name):
                raise
            raise TargetError(
                f'"{path}": there is no module {error.name} here or on the Python path '
                f"(looked from {os.getcwd()}){_near(str(error.name))}"
            ) from error


def _is_part(error: Exception, name: str) -> TypeGuard[ModuleNotFoundError]:
    """
    Return True if the missing module is *name* or a package around it. If *name* exists but imports
    a missing module, that is another fault.
    """
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _near(name: str) -> str:
    """Return a hint with the nearest module names in the same package, or in this folder."""
    *packages, last = name.split(".")
    package = sys.modules.get(".".join(packages))
    where = getattr(package, "__path__", [os.path.join(os.getcwd(), *packages)])
    return nearest(last, (found.name for found in pkgutil.iter_modules(where)))


def _import(name: str) -> Any:
    """Import a module. If it sets Django's settings and then needs models, import it once more."""
    try:
        return importlib.import_module(name)
    except Exception:
        if not _set_up_django():
            raise
    return importlib.import_module(name)


def _attribute(module: Any, attribute: str, path: str) -> Any:
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        routers = [name for name, value in vars(module).items() if isinstance(value, Router)]
        hint = f" (its routers: {', '.join(routers)})" if routers else " (nor any router)"
        raise TargetError(
            f'"{path}": the module {module.__name__} has no {attribute}{hint}'
        ) from error
