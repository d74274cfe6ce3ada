"""
Errors of programs in Sentry: :class:`EmitIntegration`.

Without it, the stack of each such error is Emit's own, so Sentry groups all of them as one issue.
It needs the package ``sentry-sdk`` (2 or newer), which the application brings. Sentry's own
integrations for Celery and RQ report the failures, one event for each message, also in a batch.

* An error of a program has the program's own type, text and stack, with the author's frame last.
* Events are grouped by node, type and the author's frame.
* A message that its handler has rejected is a warning.
* The line that a message is given up is no event of its own, since its failure is one.
* Tags: ``emit.node``, ``emit.id``, ``emit.origin``, ``emit.attempt``.
"""

from __future__ import annotations

import re
from typing import Any

import sentry_sdk
from sentry_sdk.integrations import Integration
from sentry_sdk.scope import add_global_event_processor

from emit.context import current, run
from emit.errors import CallTimeout, Reject, RemoteError
from emit.observe.logs import GIVEN_UP, marks

__all__ = ["EmitIntegration"]

#: A line of a stack: ``fn (file:line:column)`` or ``file:line:column`` of JavaScript,
#: ``file:line:in 'fn'`` of Ruby, ``file:line in fn: source`` of Python and Go.
_FRAME = re.compile(
    r"(?:(?P<js>[^()]*?) \()?(?P<file>(?:node:)?[^():\s][^():]*?):(?P<line>\d+)"
    r"(?::(?P<column>\d+))?\)?(?:[: ]in [`']?(?P<function>[^:]+?)'?(?:: (?P<source>.*))?)?"
)

#: Folders of packages, and of the languages' own libraries.
_FOREIGN = re.compile(
    r"node_modules|^node:|/gems/|/lib/ruby/|/pkg/mod/|/site-packages/|/lib/python"
)


class EmitIntegration(Integration):
    """
    Sentry's integration for Emit. Give it to Sentry in each process, where the application calls
    ``sentry_sdk.init(..., integrations=[EmitIntegration()])``.
    """

    identifier = "emit"

    @staticmethod
    def setup_once() -> None:
        @add_global_event_processor
        def process(event: Any, hint: Any) -> Any:
            if sentry_sdk.get_client().get_integration(EmitIntegration) is None:
                return event
            return processed(event, hint)


def processed(event: Any, hint: Any) -> Any:
    """Return the event as Sentry is to get it, or None if it tells nothing new."""
    record = hint.get("log_record")
    if record is not None and record.msg == GIVEN_UP and _reports_failures():
        return None
    told = vars(record) if record is not None else {}
    if "emit_node" not in told:
        told = marks(current.get(), run.get())
    names = ("node", "id", "origin", "attempt")
    tags = {f"emit.{name}": told[f"emit_{name}"] for name in names}
    error = (hint.get("exc_info") or (None, None))[1]
    if isinstance(error, Reject):
        event["level"] = "warning"
    remote = error.remote if isinstance(error, CallTimeout) else error
    if isinstance(remote, RemoteError):
        tags["emit.node"] = remote.node
        _retell(event, remote)
    event["tags"] = {**dict(event.get("tags") or {}), **{k: v for k, v in tags.items() if v}}
    return event


def _retell(event: Any, error: RemoteError) -> None:
    """Put a program's error in the place of the exception that stands for it here."""
    frames = [_frame(line) for line in reversed(error.stack)]
    told: dict[str, Any] = {"type": error.type, "value": error.message, "module": None}
    mechanism = {"type": "emit", "handled": False}
    values = event.get("exception", {}).get("values", [])
    if values:
        mechanism = values[-1].get("mechanism") or mechanism
    told["mechanism"] = mechanism
    if frames:
        told["stacktrace"] = {"frames": frames}
    event["exception"] = {"values": [told]}
    own = next((frame for frame in reversed(frames) if frame["in_app"]), None)
    where = f"{own['filename']}:{own.get('function', '')}" if own else ""
    event["fingerprint"] = ["emit", error.node, error.type, where]


def _frame(line: str) -> dict[str, Any]:
    """
    Return a frame as Sentry has it.

    Example:
        >>> frame = _frame("/app/price.rb:2:in 'check'")
        >>> frame["filename"], frame["lineno"], frame["function"]
        ('price.rb', 2, 'check')
    """
    found = _FRAME.fullmatch(line.strip())
    if found is None:
        return {"filename": line.strip(), "in_app": False}
    path, function = found["file"], found["js"] or found["function"]
    frame = {
        "filename": path.rpartition("/")[2],
        "abs_path": path,
        "lineno": int(found["line"]),
        "in_app": not _FOREIGN.search(path),
    }
    if function:
        frame["function"] = function
    if found["column"]:
        frame["colno"] = int(found["column"])
    if found["source"]:
        frame["context_line"] = found["source"]
    return frame


def _reports_failures() -> bool:
    """Return whether Sentry's own integration reports the failure of a task or a job."""
    client = sentry_sdk.get_client()
    return any(client.get_integration(name) is not None for name in ("celery", "rq"))
