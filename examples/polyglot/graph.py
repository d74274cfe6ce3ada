"""
Count the words of a text in four languages, and find the anagrams among them.

    documents --> count_python --+
              --> count_ruby   --+--> totals --word--> letters --> anagrams
              --> count_node   --+
              --> count_go     --+

A document is worth a process of its own: the count programs are started for each, and know
nothing of Emit. A word is not: letters.py uses the SDK, starts once, and answers thousands.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from languages import find_languages
from screen import progress, table
from text import find_text, pieces, read

from emit import Router, ShellNode
from emit.errors import EmitError

HERE = Path(__file__).resolve().parent
SDK = {"PYTHONPATH": str(HERE.parent.parent / "sdks" / "python")}
WORD = "[A-Za-z]{3,}"

router = Router()
counted: Counter[str] = Counter()
grouped: dict[str, list[str]] = defaultdict(list)


@router.node(("number", "document"), entry_point=True, name="documents", stream=True)
def documents(msg):
    """It streams: each document has gone through the graph before the next is read."""
    done = 0
    for number, document in enumerate(pieces(msg.text)):
        progress(done / max(msg.text.size, 1))
        yield number, document
        done += len(document)
    progress(1)


class Count(ShellNode):
    """A program in some language. They take turns: each document goes to one of them."""

    mode = "oneshot"

    def __init__(self, command, turn, turns):
        super().__init__()
        self.command, self.turn, self.turns = command, turn, turns

    def __call__(self, msg):
        if msg.number % self.turns == self.turn:
            yield from super().__call__({"text": msg.document})


@router.node(("word",), "^count_", name="totals")
def totals(msg):
    """Add the counts up, and send on the words that are new."""
    new = msg.counts.keys() - counted.keys()
    counted.update(msg.counts)
    yield from sorted(new)


class Letters(ShellNode):
    """The letters of a word, sorted by another Python with the SDK."""

    command = (sys.executable, str(HERE / "letters.py"))
    env = SDK


letters = router.node(("word", "letters"), "totals", name="letters", mode="persistent")(Letters)
letters_oneshot = router.node(("word", "letters"), name="letters_oneshot", mode="oneshot")(Letters)


@router.node((), "letters", name="anagrams")
def anagrams(msg):
    """Words of the same letters are anagrams."""
    grouped[msg.letters].append(msg.word)


def main(source, scratch):
    began = time.monotonic()
    text = find_text(source, scratch)
    languages, missing = find_languages(scratch)
    for turn, (language, command) in enumerate(languages.items()):
        node = Count(command, turn, len(languages))
        router.node(("counts",), "documents", name=f"count_{language}")(node)
    with router:
        router(text=text)
        print(f"The most frequent words of {text.name}:\n\n{table(counted)}\n")
        print(f"Most anagrams: {', '.join(most_anagrams()) or 'none'}")
        print(compare(list(counted)[:5]))
    print(f"Languages: {', '.join(languages)}; left out: {', '.join(missing) or 'none'}")
    for why in text.left_out:
        print(f"left out: {why}", file=sys.stderr)
    if wrong := check(text):
        lines = (f"WRONG: {len(wrong)} differences from plain Python, such as", *wrong[:5])
        print(*lines, sep="\n  ", file=sys.stderr)
        return 1
    print(f"Checked against plain Python: {counted.total():,} words, {len(counted):,} different.")
    print(f"All of it took {time.monotonic() - began:.1f} s.")
    return 0


def most_anagrams():
    """The largest set of anagrams that have at least five letters."""
    sets = (words for words in grouped.values() if len(words) > 1 and len(words[0]) >= 5)
    return sorted(max(sets, key=lambda words: (len(words), sorted(words)), default=[]))


def compare(words):
    """Say what a long-lived process saves."""
    if not words:
        return "There are no words to compare with."
    once, lasting = milliseconds(letters_oneshot, words), milliseconds(letters, words * 20)
    return (
        f"One word through letters.py: {once:.1f} ms in a process of its own, {lasting:.2f} ms in "
        f"a long-lived one, which is {once / lasting:.0f} times as fast."
    )


def milliseconds(node, words):
    """How long one word takes on average, one after the other."""
    began = time.monotonic()
    with router.routing_disabled():
        for word in words:
            node(word=word)
    return (time.monotonic() - began) / len(words) * 1000


def check(text):
    """Count again in plain Python. Returns what differs."""
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
        wrong.append("letters.py has sorted wrongly, or not each word once")
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
            sys.exit(main(parser.parse_args().path, Path(scratch)))
    except FileNotFoundError as error:
        parser.error(str(error))
    except EmitError as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt:
        sys.exit(130)
