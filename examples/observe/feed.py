"""Send sentences to the graph, for as long as this runs; or as many as the argument says."""

import itertools
import sys
import time

from tasks import router

SENTENCES = ("the rain in spain", "stays mainly in the plain", "a bad word")

for number in range(int(sys.argv[1])) if sys.argv[1:] else itertools.count():
    router(text=SENTENCES[number % len(SENTENCES)])
    time.sleep(0.1)
