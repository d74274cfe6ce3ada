"""A graph whose failures Sentry's SDK reports, to a file in place of a server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import sentry_sdk
from celery import Celery
from redis import Redis
from sentry_sdk.transport import Transport

from emit import CeleryRouter, RQRouter, ShellNode
from emit.celery import configure
from emit.observe.sentry import EmitIntegration

URL = os.environ["EMIT_TEST_REDIS"]
redis = Redis.from_url(URL, decode_responses=True)


class ToFile(Transport):
    """Appends each event to a file."""

    def capture_envelope(self, envelope: Any) -> None:
        event = envelope.get_event()
        if event is not None:
            with Path(os.environ["EMIT_TEST_EVENTS"]).open("a") as file:
                file.write(json.dumps(event, default=str) + "\n")


sentry_sdk.init("http://key@localhost/1", transport=ToFile, integrations=[EmitIntegration()])

router: Any
if os.environ["EMIT_TEST_CARRIER"] == "rq":
    router = RQRouter(redis_connection=Redis.from_url(URL))
else:
    app = Celery("reported", broker=URL)
    configure(app, time_limit=60)
    router = CeleryRouter(celery_task=lambda function: app.task(function, shared=False))

FOLDER = Path(os.environ["EMIT_TEST_FOLDER"])


@router.node(("how",), entry_point=True)
def split(msg: Any) -> Any:
    yield from msg.hows


@router.node((), "reported.split", name="reported.check", batch=10, size=1)
class Check(ShellNode):
    file = str(FOLDER / "check.rb")


@router.node((), name="reported.alone", size=1)
class Alone(ShellNode):
    file = str(FOLDER / "check.rb")
    program_node = "check"
