"""Words from a Perl program, counted in Python."""

import sys
from collections import Counter

from emit import Message, Router, ShellNode

COUNTS: Counter[str] = Counter()


with Router() as router:

    @router.node(("word",), name="words", entry_point=True)
    class Words(ShellNode):
        command = ("perl", "words.pl")

    @router.node((), "words")
    def count(msg: Message) -> None:
        COUNTS[msg.word] += 1

    for line in sys.stdin:
        router(text=line)

print(COUNTS.most_common(4))
