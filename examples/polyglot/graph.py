"""
Count the words of a text in four languages, and find the anagrams among them.

    documents --> count_python --> words_python --> letters_python --+
              --> count_ruby   --> words_ruby   --> letters_ruby   --+--> anagrams
              --> count_node   --> words_node   --> letters_node   --+
              --> count_go     --> words_go     --> letters_go     --+

Each language has one plain file with two functions, count and letters, that know nothing of Emit.
The languages take turns with the documents. Each function is a node of its own: its process starts
once, and then answers thousands of messages per second.
"""

import argparse
import itertools
import os
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from screen import progress, table
from text import Text, find_text, pieces, read

from emit import Message, Router, ShellNode
from emit.errors import EmitError, StartError
from emit.typing import NodeFunction

HERE = Path(__file__).resolve().parent
FILES = {"python": "words.py", "ruby": "words.rb", "node": "words.mjs", "go": "words.go"}
WORD = "[A-Za-z]{3,}"

router = Router()
counted: Counter[str] = Counter()
grouped: dict[str, list[str]] = defaultdict(list)


@router.node(("language", "document"), entry_point=True, name="documents", stream=True)
def documents(msg: Message) -> Iterator[tuple[str, str]]:
    """Emit the documents as a stream: each passes the graph before the next is read."""
    done = 0
    for document, language in zip(pieces(msg.text), itertools.cycle(msg.languages)):
        progress(done / max(msg.text.size, 1))
        yield language, document
        done += len(document)
    progress(1)


class Count(ShellNode):
    """The function `count` of a language's file, for every document of this language's turn."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self.turn = language
        self.file = HERE / f"{FILES[language]}:count"

    def __call__(self, msg: Message) -> Iterator[Any]:
        if msg.language == self.turn:
            yield from super().__call__({"text": msg.document})


class Letters(ShellNode):
    """The function `letters` of a language's file, which sorts the letters of a word."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self.file = HERE / f"{FILES[language]}:letters"


def words(msg: Message) -> Iterator[str]:
    """Add the counts to the totals, and emit the words that are new."""
    new = msg.counts.keys() - counted.keys()
    counted.update(msg.counts)
    yield from sorted(new)


@router.node((), "^letters_", name="anagrams")
def anagrams(msg: Message) -> None:
    """Group words with the same letters: they are anagrams."""
    grouped[msg.letters].append(msg.word)


count: dict[str, NodeFunction[Any]] = {}
letters: dict[str, NodeFunction[Any]] = {}
for language in FILES:
    node = router.node(("counts",), "documents", name=f"count_{language}")
    count[language] = node(Count(language))
    router.node(("word",), f"count_{language}", name=f"words_{language}")(words)
    letters[language] = router.node(
        ("word", "letters"), f"words_{language}", name=f"letters_{language}"
    )(Letters(language))
once = router.node(("word", "letters"), name="once", mode="oneshot")(Letters("python"))


def main(source: str | None, scratch: Path) -> int:
    began = time.monotonic()
    text = find_text(source, scratch)
    with router:
        languages, missing = find_languages()
        router(text=text, languages=languages)
        print(f"The most frequent words of {text.name}:\n\n{table(counted)}\n")
        print(f"Most anagrams: {', '.join(most_anagrams()) or 'none'}")
        print(compare(list(counted)[:5]))
    print(f"Languages, by turns: {', '.join(languages)}; left out: {', '.join(missing) or 'none'}")
    for why in text.left_out:
        print(f"left out: {why}", file=sys.stderr)
    if wrong := check(text):
        lines = (f"WRONG: {len(wrong)} differences from plain Python, such as", *wrong[:5])
        print(*lines, sep="\n  ", file=sys.stderr)
        return 1
    print(f"Checked against plain Python: {counted.total():,} words, {len(counted):,} different.")
    print(f"All of it took {time.monotonic() - began:.1f} s.")
    return 0


def find_languages() -> tuple[list[str], list[str]]:
    """Return the languages that work on this machine, and why the others do not."""
    found, left_out = [], []
    for language in FILES:
        try:
            with router.routing_disabled():
                count[language](language=language, document="")
        except StartError as error:
            why = ": ".join([error.reason, *error.stderr_tail.splitlines()[-1:]])
            left_out.append(why if language in why else f"{language}: {why}")
        else:
            found.append(language)
    return found, left_out


def most_anagrams() -> list[str]:
    """Return the largest set of anagrams with at least five letters."""
    sets = (words for words in grouped.values() if len(words) > 1 and len(words[0]) >= 5)
    largest = max(sets, key=lambda words: (len(words), sorted(words)), default=list[str]())
    return sorted(largest)


def compare(words: list[str]) -> str:
    """Return a sentence about the time that a long-lived process saves."""
    if not words:
        return "There are no words to compare with."
    alone, lasting = milliseconds(once, words), milliseconds(letters["python"], words * 20)
    return (
        f"One word through words.py: {alone:.1f} ms in a process of its own, {lasting:.2f} ms in "
        f"a long-lived one, which is {alone / lasting:.0f} times as fast."
    )


def milliseconds(node: NodeFunction[Any], words: list[str]) -> float:
    """Return the average time for one word, with one word at a time."""
    began = time.monotonic()
    with router.routing_disabled():
        for word in words:
            node(word=word)
    return (time.monotonic() - began) / len(words) * 1000


def check(text: Text) -> list[str]:
    """Count again in plain Python, and return the differences."""
    expected: Counter[str] = Counter()
    for path in text.files:
        expected.update(word.lower() for word in re.findall(WORD, read(path)))
    wrong = [
        f'"{word}": {counted[word]} counted, {expected[word]} there'
        for word in sorted(expected | counted)
        if counted[word] != expected[word]
    ]
    by_node = sorted((word, key) for key, words in grouped.items() for word in words)
    if by_node != sorted((word, "".join(sorted(word))) for word in counted):
        wrong.append("a node has sorted letters wrongly, or not each word once")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "path",
        nargs="?",
        help="a file, a folder, or - for standard input; "
        "without it: the source of Python's standard library",
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            code = main(parser.parse_args().path, Path(scratch))
        sys.stdout.flush()
        sys.exit(code)
    except FileNotFoundError as error:
        parser.error(str(error))
    except BrokenPipeError:
        # The reader has gone, as in "| head". Python flushes its buffer at the exit, which would
        # fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except EmitError as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt:
        sys.exit(130)
