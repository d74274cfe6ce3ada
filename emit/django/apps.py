"""The app: its settings, and its part of ``manage.py check``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from emit.checks import Finding, find_unmatched, find_unreached
from emit.cli.check import find_misspelt, find_programs
from emit.cli.output import CommandError
from emit.cli.target import load_router
from emit.drawing.outline import outline
from emit.errors import GraphError
from emit.text import nearest

#: The keys of the setting ``EMIT`` that stand for an environment variable.
_VARIABLES = {"REDIS": "EMIT_REDIS", "HOST": "EMIT_HOST"}

_KEYS = ("ROUTERS", *_VARIABLES)


class EmitConfig(AppConfig):
    """The app ``emit.django``, with the label ``emit``."""

    name = "emit.django"
    label = "emit"
    verbose_name = "Emit"

    def ready(self) -> None:
        """
        Take the setting ``EMIT``. A variable that the environment has goes first.

        Raises:
            ImproperlyConfigured: ``EMIT`` has a key or a value that can't be.
        """
        given = _given()
        for key, variable in _VARIABLES.items():
            if key in given:
                os.environ.setdefault(variable, str(given[key]))
        checks.register(check)


def _given() -> dict[str, Any]:
    given = getattr(settings, "EMIT", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"EMIT must be a dictionary, not {type(given).__name__}")
    for key in given:
        if key not in _KEYS:
            raise ImproperlyConfigured(
                f"EMIT has no key {key!r}{nearest(str(key), _KEYS)}; its keys: {', '.join(_KEYS)}"
            )
    if isinstance(given.get("ROUTERS", ()), str):
        raise ImproperlyConfigured(
            f'EMIT["ROUTERS"] must be a list, such as [{given["ROUTERS"]!r}]'
        )
    return given


def check(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    """Find what is wrong with the routers of ``EMIT["ROUTERS"]``, and with the logging of Emit."""
    found: list[checks.CheckMessage] = []
    for path in _given().get("ROUTERS", ()):
        try:
            router = load_router(path)
        except (CommandError, GraphError) as error:
            found.append(checks.Error(str(error), obj=path, id="emit.E001"))
            continue
        found += (
            checks.Warning(finding.text, obj=path, id="emit.W001") for finding in _findings(router)
        )
    emit = logging.getLogger("emit")
    if emit.handlers and emit.propagate:
        text = (
            "The logger emit has a handler and propagates: a Celery worker writes each line twice."
        )
        hint = 'Set "propagate": False for emit in LOGGING.'
        found.append(checks.Warning(text, hint=hint, id="emit.W002"))
    return found


def _findings(router: Any) -> Iterator[Finding]:
    yield from find_unmatched(router)
    yield from find_unreached(outline(router))
    yield from find_misspelt(router)
    yield from find_programs(router)
