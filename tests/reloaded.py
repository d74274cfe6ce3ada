"""Nodes whose files are edited while messages come, for the tests of reloads."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from emit import Router, ShellNode
from tests.hosts import until


class Code(NamedTuple):
    """
    A node in one language.

    Attributes:
        file: The name of its file.
        good: Its code. It writes the message's number to a file, and answers with it, the id of its
            process, and the number VERSION.
        bad: Code that can't be loaded.
    """

    file: str
    good: str
    bad: str

    def write(self, folder: Path, version: int) -> Path:
        """Write a version, and return the file."""
        # Of another length: Python's cache tells files of one second apart only by that.
        path = folder / self.file
        path.write_text(self.good.replace("VERSION", str(10**version + version)))
        return path

    def spoil(self, folder: Path) -> None:
        """Write the code that can't be loaded."""
        (folder / self.file).write_text(self.bad)


#: One node for each language, by the name of the program that it needs.
CODES = {
    "ruby": Code(
        "node.rb",
        'def node(msg)\n  File.write(msg["log"], "#{msg["n"]}\\n", mode: "a")\n'
        '  {"n" => msg["n"], "pid" => Process.pid, "v" => VERSION}\nend\n',
        "def node(msg)\n  {\nend\n",
    ),
    "node": Code(
        "node.mjs",
        "import { appendFileSync } from 'node:fs';\n"
        "export default function node(msg) {\n"
        "  appendFileSync(msg.log, `${msg.n}\\n`);\n"
        "  return { n: msg.n, pid: process.pid, v: VERSION };\n}\n",
        "export default function node(msg) {\n  return {;\n}\n",
    ),
    "go": Code(
        "node.go",
        'package node\n\nimport (\n\t"fmt"\n\t"os"\n)\n\n'
        'type In struct {\n\tN int `json:"n"`\n\tLog string `json:"log"`\n}\n\n'
        'type Out struct {\n\tN int `json:"n"`\n\tPid int `json:"pid"`\n\tV int `json:"v"`\n}\n\n'
        "func Node(in In) (Out, error) {\n"
        "\tlog, err := os.OpenFile(in.Log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)\n"
        "\tif err != nil {\n\t\treturn Out{}, err\n\t}\n"
        "\tdefer log.Close()\n"
        "\t_, err = fmt.Fprintln(log, in.N)\n"
        "\treturn Out{in.N, os.Getpid(), VERSION}, err\n}\n",
        "package node\n\nfunc Node( {\n",
    ),
    "python": Code(
        "node.py",
        "import os\n\n\ndef node(msg):\n"
        '    with open(msg.log, "a") as log:\n        log.write(f"{msg.n}\\n")\n'
        '    return {"n": msg.n, "pid": os.getpid(), "v": VERSION}\n',
        "def node(msg):\n    return {\n",
    ),
}


def router_of(file: Path, **options: Any) -> tuple[Router, Any]:
    """Return a router with one node, ``node``, whose file is *file*, and the node."""
    router, name = Router(), str(file)

    class Reloaded(ShellNode):
        file = name

    node = router.node(("n", "pid", "v"), name="node", entry_point=True, **options)(Reloaded)
    return router, node


class Load:
    """
    Threads that call a node with numbers, about a thousand times a second in all.

    Attributes:
        answers: Each answer with the time when its call began.
    """

    def __init__(self, node: Any, log: Path) -> None:
        self.answers: list[tuple[float, Any]] = []
        self.errors: list[Exception] = []
        self._node = node
        self._log = log
        self._numbers = itertools.count()
        self._stopped = threading.Event()

    def _work(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                [answer] = self._node(n=next(self._numbers), log=str(self._log))
            except Exception as error:
                self.errors.append(error)
                return
            self.answers.append((began, answer))
            self._stopped.wait(0.0015)

    def more(self, count: int) -> None:
        """Wait for *count* more answers."""
        goal = len(self.answers) + count
        until(lambda: len(self.answers) >= goal or self.errors)

    @property
    def versions(self) -> dict[int, set[int]]:
        """The versions that each process has answered with."""
        found: dict[int, set[int]] = {}
        for _, answer in self.answers:
            found.setdefault(answer["pid"], set()).add(answer["v"])
        return found

    def check(self) -> None:
        """Assert that each message was handled and answered once, and no process had two codes."""
        assert self.errors == []
        numbers = sorted(answer["n"] for _, answer in self.answers)
        assert numbers == list(range(len(numbers)))
        handled = Counter(map(int, self._log.read_text().split()))
        assert handled == Counter(numbers)
        assert {len(versions) for versions in self.versions.values()} == {1}


@contextmanager
def load(node: Any, log: Path, threads: int = 3) -> Iterator[Load]:
    """Call *node* in threads until the end of the block."""
    under = Load(node, log)
    working = [threading.Thread(target=under._work) for _ in range(threads)]
    for thread in working:
        thread.start()
    try:
        yield under
    finally:
        under._stopped.set()
        for thread in working:
            thread.join()
