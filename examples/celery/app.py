"simple celery app"

import logging
import os

from celery import Celery

from emit import CeleryRouter

app = Celery(
    "celery_emit_example",
    broker=os.environ.get("REDIS_URL", "redis://"),
)

app.conf.update(
    CELERY_IMPORTS=("tasks",),
)

router = CeleryRouter(celery_task=app.task, node_modules=["tasks"])

logging.basicConfig(format="%(levelname)s:%(message)s", level=logging.WARNING)
