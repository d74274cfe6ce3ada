"""Measure each SDK: calls per second, time to be ready, memory of an idle process.

The program echoes a message of 100 bytes. It is compared with the naive program in the same
language, which reads a line of JSON, writes a line of JSON and flushes. Threads drive both: they
write prepared bytes and read the answers, with no work per message. The answers are checked
afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgpack  # type: ignore[import-untyped]
import orjson
import psutil
from measure import ROOT, ratio, rounds, table, verdict

HERE = ROOT / "benchmarks"
BUILT = ROOT / ".cache" / "benchmarks" / "go"
MESSAGES = 40_000
#: Calls in a frame: about what a host sends that always has more to send.
GROUP = 64
ROUNDS = 5
STARTS = 15
#: The message of docs/performance.md.
MESSAGE = {
    "word": "somewhere over the rainbow",
    "count": 3,
    "_origin": "splitter",
    "id": "0190c2a4-7b1e-7e6a",
}
MEMORY = 5.0  #: MB that an idle process may have more than the bare interpreter.
HELLO = {"op": "hello", "v": [1], "node": "echo", "max_frame": 2**24 - 1}


@dataclass(frozen=True)
class Language:
    """One language: its echo with our SDK, its naive echo, and its bare interpreter."""

    name: str
    #: Serves one node that returns its message.
    echo: list[str]
    #: Answers each line of JSON with a line of JSON.
    naive: list[str]
    #: Prints a line and reads standard input to its end.
    bare: list[str]
    #: Times the naive form, with the better codec.
    target: float
    env: dict[str, str] = field(default_factory=dict)
    #: Commands that build the programs, for a compiled language.
    build: tuple[tuple[str, ...], ...] = ()


def compiled(source: str) -> tuple[str, ...]:
    """Return the command that builds a node's file: it adds the SDK if the file imports it."""
    build = ("go", "-C", str(ROOT / "runtimes/go/build"), "run", ".", str(HERE / source))
    return (*build, "", str(BUILT / source.removesuffix(".go")))


LANGUAGES = (
    Language(
        "ruby",
        echo=["ruby", str(HERE / "echo/echo.rb")],
        naive=["ruby", str(HERE / "naive/echo.rb")],
        bare=["ruby", "-e", "$stdout.sync = true; puts 'hello'; $stdin.read"],
        # Not reached in Ruby 3.1 with msgpack 1.4. Processor time per call: the naive program takes
        # 7 us, ours 7. A loop that only decodes the calls, encodes the results and writes them
        # together, without any check and without keeping calls, takes 3 to 4. In our program, the
        # codec takes a third, looking at each part of the result a sixth, the garbage collector an
        # eighth; the rest are some 25 methods of Ruby, at 0.1 us each. Calls per second: 1.2 to 1.3
        # times the naive program's, and up to 2 on a busy machine, where a write for each message
        # takes long. For that loop: 2.5 to 2.9, and up to 4. In groups a call takes 3 to 4 us, half
        # of the naive program's 8 on a busy machine: decoding takes half as long (0.4 us in
        # msgpack, 0.6 in JSON), and a frame has one head.
        target=3.0,
        env={"RUBYLIB": str(ROOT / "sdks/ruby/lib")},
    ),
    Language(
        "node",
        echo=["node", str(HERE / "echo/echo.mjs")],
        naive=["node", str(HERE / "naive/echo.mjs")],
        bare=["node", "-e", "console.log('hello'); process.stdin.resume()"],
        # Not reached in Node 20. 40,000 calls take 0.2 s of processor time, half of it for V8's
        # compilation of hot code. After that a call takes 2.4 to 2.7 us, 1.5 of them in JSON.parse
        # and JSON.stringify. A loop that does only these two, with one write for each read, takes
        # 1.8. In groups a call takes 1.6 to 2.2 us. Each result still has a JSON.stringify of its
        # own (0.5 us): a handler may change what it has returned.
        target=1.5,
    ),
    Language(
        "python",
        echo=[sys.executable, str(HERE / "echo/echo.py")],
        naive=[sys.executable, str(HERE / "naive/echo.py")],
        bare=[sys.executable, "-c", "import sys; print('hello', flush=True); sys.stdin.read()"],
        target=1.5,
        env={"PYTHONPATH": str(ROOT / "sdks/python")},
    ),
    Language(
        "go",
        echo=[str(BUILT / "echo/echo")],
        naive=[str(BUILT / "naive/echo")],
        bare=[str(BUILT / "bare/hello")],
        target=3.0,
        build=(compiled("echo/echo.go"), compiled("naive/echo.go"), compiled("bare/hello.go")),
    ),
)


def main() -> None:
    languages = [each for each in LANGUAGES if found(each)]
    table(
        ("calls/s", "naive", "json", "in groups", "msgpack", "in groups", "best", "target"),
        [speed(language) for language in languages],
    )
    print()
    table(
        ("ms to be ready", "bare", "ours", "target"),
        [readiness(language) for language in languages],
    )
    print()
    table(
        ("MB when idle", "bare", "ours", "more", "target"),
        [idle(language) for language in languages],
    )


def found(language: Language) -> bool:
    tool = language.build[0][0] if language.build else language.bare[0]
    if not shutil.which(tool):
        print(f"left out: {language.name} ({tool} not found)", file=sys.stderr)
        return False
    for command in language.build:
        subprocess.run(command, check=True)
    return True


def speed(language: Language) -> tuple[str, ...]:
    contestants = {"naive": lambda: answered_naively(language)}
    for codec in ("json", "msgpack"):
        contestants[codec] = partial(answered, language, codec)
        contestants[f"{codec} groups"] = partial(answered, language, codec, GROUP)
    taken = rounds(contestants, ROUNDS)
    best = max(ratio(taken[name], taken["naive"]) for name in contestants if name != "naive")
    medians = [f"{statistics.median(each):,.0f}" for each in taken.values()]
    goal = f"{language.target}, {verdict(best >= language.target)}"
    return language.name, *medians, f"{best:.2f} x", goal


def answered_naively(language: Language) -> float:
    """Measure calls per second of the naive program."""
    line = json.dumps(MESSAGE).encode() + b"\n"
    with running(language, language.naive) as process:
        ask(process, line)
        rate, data = drive(process, line * MESSAGES)
    assert [orjson.loads(line) for line in data.splitlines()] == [MESSAGE] * MESSAGES
    return rate


def answered(language: Language, codec: str, group: int = 1) -> float:
    """
    Measure calls per second of our echo, of *group* calls in a frame; 0 if it cannot do that.
    """
    with running(language, language.echo) as process:
        ready = greet(process, codec)
        if ready.get("codec", "json") != codec or (group > 1 and "groups" not in ready["caps"]):
            return 0.0
        rate, data = drive(process, b"".join(calls(codec, group)))
    results = [msg for frame in frames(data, codec) for msgs in lists_of(frame) for msg in msgs]
    assert results == [MESSAGE] * MESSAGES
    return rate


def calls(codec: str, group: int) -> Iterator[bytes]:
    for number in range(1, MESSAGES + 1, group):
        call: dict[str, Any] = {"op": "call", "id": number, "msg": MESSAGE}
        if group > 1:
            call = {"op": "calls", "id": number, "msgs": [MESSAGE] * group}
        if codec == "json":
            yield b"\n%b\n" % orjson.dumps(call)
        else:
            packed = msgpack.packb(call)
            yield len(packed).to_bytes(4, "big") + packed


def lists_of(frame: dict[str, Any]) -> list[Any]:
    """Return the results in *frame*, by call. On a busy machine, some come in an out."""
    msgs = frame.get("msgs", [])
    return msgs if frame["op"] == "ends" else [msgs]


def frames(data: bytes, codec: str) -> list[Any]:
    if codec == "json":
        return [orjson.loads(line) for line in data.splitlines() if line]
    found, at = [], 0
    while at < len(data):
        start, at = at + 4, at + 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(msgpack.unpackb(data[start:at]))
    return found


@contextmanager
def running(language: Language, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    pipe, env = subprocess.PIPE, {**os.environ, **language.env}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, cwd=ROOT) as process:
        yield process  # at its end Popen closes the pipes and waits


def ask(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """Write *line*, and return the next line that is not empty."""
    os.write(descriptors(process)[0], line)
    answer = b""
    while not answer.strip() or not answer.endswith(b"\n"):
        piece = os.read(descriptors(process)[1], 1 << 16)
        assert piece, f"the program ended: {process.args!r}"
        answer += piece
    return answer


def greet(process: subprocess.Popen[bytes], codec: str) -> Any:
    return json.loads(ask(process, json.dumps({**HELLO, "codecs": [codec]}).encode() + b"\n"))


def drive(process: subprocess.Popen[bytes], data: bytes) -> tuple[float, bytes]:
    """Write *data*, read to the end, and return calls per second with all bytes."""
    _, reading = descriptors(process)
    writer = threading.Thread(target=pour, args=(process, data))
    pieces, last = [], (began := time.perf_counter())
    writer.start()
    while piece := os.read(reading, 1 << 16):
        last = time.perf_counter()
        pieces.append(piece)
    writer.join()
    return MESSAGES / (last - began), b"".join(pieces)


def pour(process: subprocess.Popen[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptors(process)[0], view[: 1 << 16]) :]
    assert process.stdin is not None
    process.stdin.close()


def descriptors(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Return the descriptors to write to a process and to read from it."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin.fileno(), process.stdout.fileno()


def readiness(language: Language) -> tuple[str, ...]:
    """
    Measure the time to the first line of output. Target: at most a tenth, plus 30 ms, more than the
    bare program's.
    """
    taken = rounds({"bare": lambda: started(language), "ours": lambda: ready(language)}, STARTS)
    bare, ours = (statistics.median(each) for each in taken.values())
    goal = 1.1 * bare + 30
    return language.name, f"{bare:.0f}", f"{ours:.0f}", f"{goal:.0f}, {verdict(ours <= goal)}"


def started(language: Language) -> float:
    began = time.perf_counter()
    with running(language, language.bare) as process:
        ask(process, b"\n")
        return (time.perf_counter() - began) * 1e3


def ready(language: Language) -> float:
    began = time.perf_counter()
    with running(language, language.echo) as process:
        greet(process, "msgpack")
        return (time.perf_counter() - began) * 1e3


def idle(language: Language) -> tuple[str, ...]:
    """Measure resident memory, once the process waits for input."""
    with running(language, language.bare) as process:
        ask(process, b"\n")
        bare = resident(process)
    with running(language, language.echo) as process:
        greet(process, "msgpack")
        ours = resident(process)
    more = ours - bare
    goal = f"{MEMORY}, {verdict(more <= MEMORY)}"
    return language.name, f"{bare:.1f}", f"{ours:.1f}", f"{more:.1f}", goal


def resident(process: subprocess.Popen[bytes]) -> float:
    """Return MB once the process sleeps: memory that it takes after its first line counts, too."""
    program = psutil.Process(process.pid)
    while program.status() != psutil.STATUS_SLEEPING:
        time.sleep(0.01)
    return float(program.memory_info().rss) / 1e6


if __name__ == "__main__":
    main()
