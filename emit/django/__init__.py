"""
Emit in a Django project: ``"emit.django"`` in ``INSTALLED_APPS``.

The app adds ``manage.py emit``, has ``manage.py check`` look at the routers that the setting
``EMIT`` names, and takes Emit's other settings from there. Nothing in the rest of Emit knows this
package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["on_commit"]


def on_commit(send: Callable[..., Any], using: str | None = None) -> Callable[..., None]:
    """
    Return a function that sends a message when the current transaction commits: never after a
    rollback, and at once outside of a transaction. A worker that gets the message then finds the
    rows that it is about.

    Args:
        send: A router, a node, or a queue's ``task.delay``.
        using: The database; None: the default one.

    Returns:
        A function with the arguments of *send*. The message is made at the commit. So values that
        can change, such as a list, must not change before.

    Example: ``on_commit(router)(order=order.pk)``.
    """
    from django.db import transaction  # not before the settings are known

    def send_later(*args: Any, **kwargs: Any) -> None:
        transaction.on_commit(partial(send, *args, **kwargs), using=using)

    return send_later
