"""
Value vectors: one value, how it is written in each codec, and what a handler must make of it.

``echo`` must give back the very value, and ``kind`` say what the handler saw.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emit.conformance.listener import Fault, describe
from emit.conformance.scenario import CODECS, Scenario
from emit.conformance.template import build, difference, shorten
from emit.host.wire import frames
from emit.host.wire.values import from_json, from_msgpack

if TYPE_CHECKING:
    from emit.conformance.talk import Talk

__all__ = ["check_vectors", "scenarios"]

#: Wrong values that a complaint lists.
_LISTED = 3


def scenarios(data: dict[str, Any]) -> Iterator[Scenario]:
    """A scenario for each group of values.json, and one for what the handler sees of them all."""
    for group in data["groups"]:
        rules = tuple(group.get("rules", ()))
        scenario = _scenario("values", group["name"], group["doc"], "echo", group["vectors"])
        [step] = scenario.steps
        step = {**step, "within": group.get("within", 0)}
        yield replace(scenario, rules=rules, steps=(step,))
    every = [vector for group in data["groups"] for vector in group["vectors"]]
    seen = [vector for vector in every if "kind" in vector]
    yield _scenario("kinds", "kinds", "A handler sees the language's own types.", "kind", seen)


def _scenario(
    feature: str, name: str, doc: str, node: str, vectors: list[dict[str, Any]]
) -> Scenario:
    return Scenario(
        feature=feature,
        name=name,
        doc=doc,
        steps=({"vectors": vectors, "node": node},),
        needs=(node,),
        codecs=tuple(c for c in CODECS if any(c in v or "value" in v for v in vectors)),
    )


def check_vectors(talk: Talk, step: dict[str, Any]) -> None:
    """
    Send each value to the node, one at a time.

    Raises:
        Fault: Some come back otherwise. The text names them.
    """
    wrong: list[str] = []
    sendings = _sendings(talk, step["vectors"])
    for id, (vector, data) in enumerate(sendings, 1):
        talk.heard.open.add(id)
        talk.write(talk.framed(_call(talk, id, step["node"], data)))
        what, within = f"an answer for {vector['name']}", step.get("within", 0)
        talk.wait(functools.partial(talk.heard.answers.get, id), what, within)
        if fault := _judge(talk, id, vector, data, step["node"]):
            wrong.append(f"{vector['name']}: {fault}")
    if wrong:
        more = f" (and {len(wrong) - _LISTED} more)" * (len(wrong) > _LISTED)
        raise Fault("; ".join(wrong[:_LISTED]) + more)


def _sendings(talk: Talk, vectors: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each vector with each way to write it."""
    codec = talk.codec
    for vector in vectors:
        if "value" in vector and codec not in vector:
            yield vector, talk.body(build(vector["value"]))
        for text in vector.get(codec, ()):
            yield vector, text.encode() if codec == "json" else bytes.fromhex(text)


def _call(talk: Talk, id: int, node: str, data: bytes) -> bytes:
    # The value is put in as it is: it may be written as no encoder would.
    packed = talk.body({"op": "call", "id": id, "node": node, "msg": {"value": None}})
    if talk.codec == "json":
        return packed.removesuffix(b"null}}") + data + b"}}"
    return packed.removesuffix(b"\xc0") + data


def _judge(talk: Talk, id: int, vector: dict[str, Any], data: bytes, node: str) -> str:
    answer, results = talk.heard.answers[id], talk.heard.results[id]
    sent = f"sent {_shown(data, talk.codec)}, "
    if not isinstance(answer, frames.End):
        return sent + f"got {describe(answer)}"
    value = _decoded(data, talk.codec) if "value" not in vector else build(vector["value"])
    want = {"$or": _kinds(vector, value)} if node == "kind" else _either(value, vector)
    return sent + wrong if (wrong := difference([want], results)) else ""


def _decoded(data: bytes, codec: str) -> Any:
    return from_json(data) if codec == "json" else from_msgpack(data)


def _shown(data: bytes, codec: str) -> str:
    some = data[:1000]
    return shorten(some.hex() if codec == "msgpack" else some.decode(errors="replace"))


def _either(value: Any, vector: dict[str, Any]) -> Any:
    # A map of the author may look like a word of a template, so it is not taken for one.
    return {"$or": [{"$exactly": value}, *vector.get("or", ())]}


def _kinds(vector: dict[str, Any], value: Any) -> list[str]:
    whole = isinstance(value, float) and value.is_integer()
    return [vector["kind"], *(["int"] if whole else [])]
