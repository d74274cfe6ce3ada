"""The settings of a node, with their defaults, for people. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from emit.host.settings import Settings
from emit.router import Router
from emit.router.delivery import Plan, Policy
from emit.router.queued import QueueRouter

__all__ = ["settings_of"]


def settings_of(router: Router, name: str) -> list[dict[str, Any]]:
    """
    Return the settings of a node: each with ``name``, ``value`` and ``default`` as texts, and
    ``changed``: its author has changed it. Neither a command, an environment nor a configuration is
    among them, as they may hold secrets.

    Example:
        >>> router = Router()
        >>> router.node((), name="show", stream=True)(print) and settings_of(router, "show")[0]
        {'name': 'stream', 'value': 'True', 'default': 'False', 'changed': True}
    """
    return [
        {"name": what, "value": str(value), "default": str(usual), "changed": value != usual}
        for what, value, usual in _all(router, name)
    ]


def _all(router: Router, name: str) -> Iterator[tuple[str, Any, Any]]:
    node = router._nodes.get(name)
    if node is None:
        return
    yield "stream", node.stream, False
    yield "pass_through", node.pass_through, False
    plan = router._plans.get(name) if isinstance(router, QueueRouter) else None
    if plan is not None:
        for part, usual in ((plan, Plan()), (plan.policy, Policy())):
            for field in fields(part):
                if field.name != "policy":
                    yield field.name, getattr(part, field.name), getattr(usual, field.name)
    if node.foreign:
        usual_settings = Settings()
        for field in fields(Settings):
            if plan is None or not hasattr(plan.policy, field.name):
                usual = getattr(usual_settings, field.name)
                yield field.name, getattr(node.seam, field.name, usual), usual
