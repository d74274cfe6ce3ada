"""A graph whose app takes its settings from the test, as JSON in ``$EMIT_TEST_CONF``."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

from emit import CeleryRouter
from emit.celery import configure

app = Celery("addressed")
app.conf.update(json.loads(os.environ["EMIT_TEST_CONF"]))
configure(app, time_limit=60)
router = CeleryRouter(app.task)


@router.node((), entry_point=True)
def ill(msg: Any) -> None:
    raise ValueError("ill")
