import json
import sys

message = json.loads(sys.stdin.read())

for i in range(message["count"]):
    print(json.dumps(i))
