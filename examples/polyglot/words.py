# Two nodes. They know nothing of Emit.

import collections
import re


def count(text):
    words = re.findall("[A-Za-z]{3,}", text)
    return {"counts": collections.Counter(map(str.lower, words))}


def letters(word):
    return {"word": word, "letters": "".join(sorted(word))}
