"send a query string through the graph, and print all that is published on its way"

import sys

from graph import redis, router

listener = redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
listener.psubscribe("notify_on_emit.*")
listener.get_message(timeout=5)  # that the subscription is there

router(querystring=sys.argv[1])

while message := listener.get_message(timeout=1):
    print(message["channel"].decode(), message["data"].decode())
