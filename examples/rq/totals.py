"print the totals so far"

from typing import Any

from app import redis

counts: Any = redis.zrevrange("rq_emit_example", 0, -1, withscores=True)
for word, count in counts:
    print(f"{word.decode():8}{count:.0f}")
