import collections
import json
import re
import sys

text = json.load(sys.stdin)["text"]
words = re.findall("[A-Za-z]{3,}", text)
json.dump({"counts": collections.Counter(map(str.lower, words))}, sys.stdout)
