"""The outline of a graph, and its renderings."""

from __future__ import annotations

import json
import subprocess

import pytest

from emit import Router, ShellNode
from emit.drawing import outline
from emit.drawing.formats import dot, mermaid, text

COLOURS = {"python": ("#dbeafe", "#1e3a8a"), "ruby": ("#fee2e2", "#7f1d1d")}


@pytest.fixture
def router() -> Router:
    """Three languages, a regular expression, a node that is heard twice, and two lost parts."""
    router = Router()

    def add(name: str, fields: str, *wishes: str, entry: bool = False) -> None:
        node = router.node(fields.split(), wishes, entry_point=entry, name=name)
        node(lambda msg: None)

    @router.node(("word",), "tweets", name="clean", size=4, mode="persistent")
    class Clean(ShellNode):
        command = "ruby clean.rb"

    @router.node(("word", "score"), "clean", name="rate")
    class Rate(ShellNode):
        command = ("node", "rate.mjs")

    add("tweets", "tweet", entry=True)
    add("tally", "word count", "clean", "rate")
    add("audit", "", ".+")
    add("report", "x")
    add("ping", "n", "pong")
    add("pong", "n", "ping")
    return router


def test_text(router: Router) -> None:
    """A tree: what is met again refers to above; what no call reaches follows, circles too."""
    assert (
        text(outline(router))
        == """\
● entry
├─ tweets  (tweet)
│  ├─ clean  (word)  [ruby ×4]
│  │  ├─ rate  (word, score)  [node]
│  │  │  ├─ tally  (word, count)
│  │  │  │  └─ audit  ~.+
│  │  │  └─ audit  ~.+
│  │  ├─ tally  ↩ above
│  │  └─ audit  ~.+
│  └─ audit  ~.+
└─ audit  ~.+

○ never reached
├─ report  (x)
│  └─ audit  ~.+
└─ ping  (n)
   ├─ audit  ~.+
   └─ pong  (n)
      ├─ audit  ~.+
      └─ ping  ↩ above"""
    )


def test_an_empty_graph() -> None:
    """A router without nodes is an entry that leads nowhere, in every rendering."""
    empty = outline(Router())
    assert text(empty) == "● entry"
    assert '"__entry_point"' not in dot(empty, {})
    assert mermaid(empty, {}).startswith("flowchart LR\n  classDef")
    assert empty.as_dict() == {"nodes": [], "edges": []}


def test_a_node_that_passes_fields_on(router: Router) -> None:
    """The tree marks it; the edges have all that is known to travel along them."""
    router.node(("n",), "tweets", name="id", pass_through=True)(lambda msg: None)
    router.node((), "id", name="after")(lambda msg: None)
    assert "└─ id  (…, n)" in text(outline(router))
    assert '"id" -> "after" [label="tweet, n"];' in dot(outline(router), COLOURS)


def test_as_dict(router: Router) -> None:
    """The data of nodes and edges, as documented; JSON carries it."""
    data = json.loads(json.dumps(outline(router).as_dict()))
    nodes = {node["name"]: node for node in data["nodes"]}
    assert nodes["clean"] == {
        "name": "clean",
        "fields": ["word"],
        "pass_through": False,
        "language": "ruby",
        "foreign": True,
        "size": 4,
        "entry": False,
        "reached": True,
    }
    assert (nodes["tweets"]["language"], nodes["tweets"]["entry"]) == ("python", True)
    assert (nodes["rate"]["size"], nodes["report"]["reached"]) == (None, False)
    edges = {(edge["origin"], edge["destination"]): edge for edge in data["edges"]}
    assert edges["rate", "tally"]["fields"] == ["word", "score"]
    assert edges["rate", "tally"]["pattern"] is None
    assert edges["rate", "audit"]["pattern"] == ".+"
    assert edges["__entry_point", "tweets"]["fields"] is None


def test_nodes_called_directly_are_reached(router: Router) -> None:
    """Nodes that are named as called, and the nodes behind them, count as reached."""
    nodes = outline(router, called=["ping"]).nodes
    assert [name for name, node in nodes.items() if not node.reached] == ["report"]


def test_a_name_counts_before_a_pattern() -> None:
    """An edge that a node has wished for by name and by pattern is one by name."""
    router = Router()
    router.node(("x",), entry_point=True, name="a")(lambda msg: 1)
    router.node((), [".+", "a"], name="b")(lambda msg: None)
    assert {e.origin: e.pattern for e in outline(router).edges if e.destination == "b"} == {
        "__entry_point": ".+",
        "a": None,
    }


def test_dot(router: Router) -> None:
    """A colour for each language, fields on edges, dashes for patterns and lost nodes."""
    lines = dot(outline(router), COLOURS).splitlines()
    [clean] = [line for line in lines if line.startswith('  "clean" [')]
    assert "ruby ×4" in clean
    assert 'fillcolor="#fee2e2", fontcolor="#7f1d1d"' in clean
    [rate] = [line for line in lines if line.startswith('  "rate" [')]
    assert 'fillcolor="#f3f4f6"' in rate  # a language without colours is grey
    assert '  "rate" -> "tally" [label="word, score"];' in lines
    assert '  "rate" -> "audit" [label="word, score", style=dashed, tooltip=".+"];' in lines
    [report] = [line for line in lines if line.startswith('  "report" [')]
    assert "dashed" in report


@pytest.mark.requires("graphviz")
def test_dot_takes_any_name() -> None:
    """Graphviz reads what is written, whatever the names are."""
    names = ['say "hi"', "<b>&amp;", "ünï", "graph", "two\nlines", "back\\slash"]
    router = Router()
    for name, heard in zip(names, [None, *names[:-1]], strict=True):
        router.node(('f"<&\\',), heard, name=name, entry_point=not heard)(lambda msg: 1)
    done = subprocess.run(
        ["dot", "-T", "plain"], input=dot(outline(router), COLOURS), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(line.startswith("node ") for line in done.stdout.splitlines()) == len(names) + 1


def test_mermaid(router: Router) -> None:
    """The same in Mermaid; marks that it would read are escaped."""
    lines = [line.strip() for line in mermaid(outline(router), COLOURS).splitlines()]
    assert 'n0["clean<br/><small>ruby ×4</small>"]:::ruby' in lines
    assert "classDef ruby fill:#fee2e2,stroke:#7f1d1d,color:#7f1d1d" in lines
    assert 'n1["rate<br/><small>node</small>"]:::other' in lines
    assert 'n1 -->|"word, score"| n3' in lines
    assert 'n1 -.->|"word, score"| n4' in lines
    assert "class n5 lost" in lines
    odd = Router()
    odd.node(("x",), name='a"b<c>#')(lambda msg: 1)
    assert 'n0["a#quot;b#lt;c#gt;#35;"]:::python' in mermaid(outline(odd), COLOURS)
