"""The program without an SDK: read a line, write a line, flush."""

import json
import sys

for line in sys.stdin:
    print(json.dumps(json.loads(line)), flush=True)
