"""
Text from elsewhere, made safe to log and to print. It is cut, and stripped of anything that could
drive a terminal or pass for another line. No I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

__all__ = [
    "LINES",
    "MOST",
    "WORD",
    "clean",
    "clean_lines",
    "clean_value",
    "clean_values",
    "cut",
    "hide_arguments",
    "is_name",
    "misspelt",
    "names_of",
    "nearest",
    "one_line",
    "path_to",
    "said",
]

#: Characters kept of one text: of an error's message, of a stack, of a log's text.
MOST = 8 * 1024

#: Lines kept of a stack or of a log's text: 8 KiB of line ends must not become 8,192 records.
LINES = 200

#: Characters kept of a text that should be a word, such as the class of an error.
WORD = 200

#: Characters that a terminal, a log or a reader may take for more than text: control characters (C0
#: and C1; tabs and line ends are text), line separators, marks that turn the direction of writing,
#: invisible tags, and surrogates, which no file in UTF-8 holds.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]|\r(?!\n)"
)


#: The most keys of a map that a text names.
_SHOWN = 20

#: A text that looks like the name of a field. Keys of a map can also be data, such as addresses of
#: people; keys with five digits or more are numbers, ids or tokens.
_NAME = re.compile(r"(?!(?:\D*\d){5})[^\W\d][\w-]{0,39}")


def is_name(text: object) -> bool:
    """
    True if *text* looks like the name of a field, which an error may show, and not like data.

    Example:
        >>> is_name("unit-price"), is_name("order-41111"), is_name("ada@example.org")
        (True, False, False)
    """
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def names_of(keys: Collection[object]) -> str:
    """
    Return one line with the first *keys* that look like names, and the number of the other keys. A
    map may have anything as keys, and any number of them.

    Example:
        >>> names_of(["word", "count", "ada@example.org"])
        'word, count, 1 other'
    """
    names = [str(key) for key in islice(keys, _SHOWN) if is_name(key)]
    others = len(keys) - len(names)
    return ", ".join([*names, *([f"{others} other{'s' if others > 1 else ''}"] if others else [])])


def path_to(container: str, key: object, number: int) -> str:
    """
    Return the path to a key's value in a map. A key that may be data is replaced by its number,
    since paths end in logs.

    Example:
        >>> path_to("items[3]", "price", 1), path_to("people", "ada@example.org", 2)
        ('items[3].price', 'people[key 2]')
    """
    if not isinstance(key, str) or not is_name(key):
        return f"{container}[key {number}]"
    if not key.isidentifier():
        return f"{container}[{key!r}]"
    return f"{container}.{key}" if container else key


def clean(text: str) -> str:
    """
    Escape every character that is not text. Tabs and line ends stay.

    Example:
        >>> clean("\\x1b[2J and \\u202e, a\\tb")
        '\\\\x1b[2J and \\\\u202e, a\\tb'
    """
    return _UNSAFE.sub(lambda match: _escaped(match[0]), text)


def cut(text: str, most: int = MOST) -> str:
    """
    Keep the first *most* characters, and say so if the text was longer.

    Example:
        >>> cut("a long text", 6)
        'a long ... (cut at 6 characters)'
    """
    return text if len(text) <= most else f"{text[:most]} ... (cut at {most} characters)"


def said(text: str) -> str:
    """Return a program's text, such as an error's message, cut and clean. Its line ends stay."""
    return clean(cut(text))


def one_line(text: str, most: int = MOST) -> str:
    """
    Return a clean text of one line: for a name, or if a second line would look like another record.

    Example:
        >>> one_line("first\\nsecond")
        'first\\\\nsecond'
    """
    return clean(cut(text, most)).replace("\r\n", "\n").replace("\n", "\\n")


def clean_lines(lines: Sequence[str]) -> Sequence[str]:
    """Return each item as a clean line: at most `LINES` items and at most `MOST` characters."""
    if not lines:
        return lines
    kept: list[str] = []
    left = MOST
    for line in lines[:LINES]:
        if left <= 0:
            break
        kept.append(one_line(line, min(left, MOST // 8)))
        left -= min(len(line), MOST // 8)
    if len(kept) < len(lines):
        kept.append(f"... ({len(lines) - len(kept)} more)")
    return kept


def clean_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the same fields with clean texts. Texts beyond `MOST` characters in all are left out, and
    the field ``...`` says so.
    """
    kept: dict[str, Any] = {}
    left = MOST
    for name, value in fields.items():
        left -= len(name) + _weight(value, left)
        if left < 0:
            kept["..."] = f"{len(fields) - len(kept)} fields left out, over {MOST} characters"
            break
        kept[one_line(name, WORD)] = clean_value(value)
    return kept


#: redis-py's text about a command in a pipeline. It has the command's arguments, which may be a
#: message.
_COMMAND = re.compile(r"^(Command # \d+ \(\w+) .*(\) of pipeline caused error: )", re.DOTALL)


def hide_arguments(error: BaseException) -> None:
    """
    Remove the arguments of a command from redis-py's text, in *error* and in its causes, because a
    traceback prints all of them.

    Example:
        >>> error = ValueError("Command # 1 (LPUSH words a b) of pipeline caused error: OOM")
        >>> hide_arguments(error)
        >>> str(error)
        'Command # 1 (LPUSH ...) of pipeline caused error: OOM'
    """
    seen: list[BaseException] = []
    led: BaseException | None = error
    while led is not None and led not in seen:
        texts = (_COMMAND.sub(r"\1 ...\2", x) if isinstance(x, str) else x for x in led.args)
        led.args = tuple(texts)
        seen.append(led)
        led = led.__cause__ or led.__context__


def _weight(value: Any, most: int) -> int:
    """Count the characters of all texts in a value, and 1 for each other value, up to *most*."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        value = [item for pair in value.items() for item in pair]
    if not isinstance(value, Sequence):
        return 1
    total = 1
    for item in value:
        total += _weight(item, most - total)
        if total > most:
            break
    return total


def clean_value(value: Any) -> Any:
    """Return the same value with clean texts, however many there are."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {one_line(str(name), WORD): clean_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [clean_value(item) for item in value]
    return value


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# -- The names that may have been meant by one that is not there -----------------------------------


def nearest(text: str, names: Iterable[str]) -> str:
    """Return the similar names as `` (nearest: a, b)``, or an empty text if none is similar."""
    others = list(names)
    near = _close(text, others, count=2, share=0.5)
    # A short name differs much from a long pattern that was meant for it, and vice versa.
    near = near or [name for name in others if name in text or text in name][:2]
    return f" (nearest: {', '.join(near)})" if near else ""


def misspelt(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return the unknown *names* that are within a letter or two of a known one."""
    there = list(known)
    near = {name: _close(name, there, count=1, share=0.85) for name in names if name not in there}
    return {name: meant[0] for name, meant in near.items() if meant}


def _close(text: str, names: list[str], *, count: int, share: float) -> list[str]:
    # Imported here, since only a wrong name needs it.
    from difflib import get_close_matches

    return get_close_matches(text, names, n=count, cutoff=share)
