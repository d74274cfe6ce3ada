"send one document of random words into the graph"

import random

from app import router

words = ["the", "rain", "in", "spain", "falls", "mainly", "on", "the", "plain"]
router(document=" ".join(random.choice(words) for i in range(50)))
