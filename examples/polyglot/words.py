# Two nodes. They know nothing of Emit.

import collections
import re


def count(text: str) -> dict[str, dict[str, int]]:
    words = re.findall("[A-Za-z]{3,}", text)
    return {"counts": collections.Counter(map(str.lower, words))}


def letters(word: str) -> dict[str, str]:
    return {"word": word, "letters": "".join(sorted(word))}
