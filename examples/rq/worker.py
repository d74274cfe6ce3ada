"a worker that has imported the nodes before it forks for its first job"

import sys

import rq
from app import redis, router

router.resolve_node_modules()

queues = [rq.Queue(name, connection=redis) for name in sys.argv[1:] or ["default"]]
rq.Worker(queues, connection=redis).work(burst=True, logging_level="WARNING")
