"""The documentation's quickstart: count the words of a document, and print the top 5."""

import sys
from collections import Counter
from collections.abc import Iterator

from emit import Message, Router

router = Router()


def prefix(name: str) -> str:
    return f"{__name__}.{name}"


@router.node(("word",), entry_point=True)
def words(msg: Message) -> Iterator[str]:
    print("got document")
    yield from msg.document.strip().split(" ")


WORDS: Counter[str] = Counter()


@router.node(("word", "count"), prefix("words"))
def count_word(msg: Message) -> tuple[str, int]:
    print(f"got word ({msg.word})")
    WORDS.update([msg.word])
    return msg.word, WORDS[msg.word]


if __name__ == "__main__":
    router(document=sys.stdin.read())

    print()
    print("Top 5 words:")
    for word, count in WORDS.most_common(5):
        print(f"    {word}: {count}")
