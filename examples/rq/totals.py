"print the totals so far"

from app import redis

for word, count in redis.zrevrange("rq_emit_example", 0, -1, withscores=True):
    print(f"{word.decode():8}{count:.0f}")
