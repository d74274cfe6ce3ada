"print the totals, once that many words are counted: python totals.py 20"

import sys
import time
from typing import Any

from tasks import redis


def totals() -> Any:
    return redis.zrevrange("celery_emit_example", 0, -1, withscores=True)


while sum(count for _, count in totals()) < int(sys.argv[1] if sys.argv[1:] else 0):
    time.sleep(0.1)
for word, count in totals():
    print(f"{word.decode():8}{count:.0f}")
