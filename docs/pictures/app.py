"""The graph of graph.svg, which `emit graph app.router --output graph.svg` makes from it."""

from emit import Router, ShellNode

router = Router()


@router.node(("tweet",), entry_point=True, name="tweets")
def tweets(msg):
    yield from msg.tweets


@router.node(("word",), "tweets", name="clean_words")
class CleanWords(ShellNode):
    command = "ruby nodes/clean_words.rb"
    size = 4


@router.node(("word", "score"), "clean_words", name="sentiment")
class Sentiment(ShellNode):
    command = "node nodes/sentiment.mjs"
    size = 2


@router.node(("stem",), "clean_words", name="stem")
class Stem(ShellNode):
    command = "go run nodes/stem.go"


@router.node(("stem", "count"), "stem", name="tally")
def tally(msg):
    return msg.stem, 1


@router.node((), "^(sentiment|tally)$", name="audit")
def audit(msg):
    print(msg._origin)
