"simple rq app"

import logging
import os

from redis import Redis

from emit import RQRouter

redis = Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost"))

router = RQRouter(redis_connection=redis, node_modules=["tasks"])

logging.basicConfig(format="%(levelname)s:%(message)s", level=logging.WARNING)
