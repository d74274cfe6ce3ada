"""What one writes without an SDK: a line in, a line out, flushed."""

import json
import sys

for line in sys.stdin:
    print(json.dumps(json.loads(line)), flush=True)
