"""The Go SDK under the real host, in a module of its own outside of the checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import ProcessDied, RemoteError
from tests.conftest import require
from tests.hosts import ROOT
from tests.leaks import no_leaks

pytestmark = [pytest.mark.slow, pytest.mark.requires("go")]

PROGRAM = """package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	emit "github.com/emit-graph/emit/sdks/go"
)

type number struct {
	N int `json:"n"`
}

func count(ctx context.Context, in number, out func(int) error) error {
	for n := range in.N {
		if err := out(n); err != nil {
			return err
		}
	}
	return nil
}

func die(in struct{ File string }) int {
	if os.Remove(in.File) == nil {
		p, _ := os.FindProcess(os.Getpid())
		_ = p.Kill()
		time.Sleep(time.Hour)
	}
	return os.Getpid()
}

func printing(in number) int {
	fmt.Println("a line")
	fmt.Fprint(os.Stdout, "and a half")
	return in.N
}

var together = make(chan int)

// meet ends only when another call of it is at work; 0 meets nobody.
func meet(in number) int {
	if in.N == 0 {
		return 0
	}
	select {
	case together <- in.N:
		return in.N
	case <-together:
		return in.N
	}
}

func main() {
	emit.Node("count", count)
	emit.Node("die", emit.Pure(die))
	emit.Node("printing", emit.Pure(printing))
	emit.Node("large", emit.Pure(func(in number) string { return strings.Repeat("é", in.N/2) }))
	emit.Node("size", emit.Pure(func(in struct{ Text string }) int { return len(in.Text) }))
	emit.Node("meet", emit.Pure(meet))
	emit.Concurrency(2)
	emit.Run()
}
"""

Declare = Callable[..., Any]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Built as an author would: an empty module, and a copy of the SDK by `replace`."""
    require("go")
    folder = tmp_path_factory.mktemp("author")
    shutil.copytree(ROOT / "sdks" / "go", folder / "sdk")
    (folder / "shop").mkdir()
    (folder / "shop" / "main.go").write_text(PROGRAM)
    sdk = "github.com/emit-graph/emit/sdks/go"
    for command in (
        ("go", "mod", "init", "shop"),
        ("go", "mod", "edit", f"-require={sdk}@v0.5.0", f"-replace={sdk}=../sdk"),
        ("go", "build", "-o", "shop", "."),
    ):
        subprocess.run(command, cwd=folder / "shop", check=True, capture_output=True)
    return str(folder / "shop" / "shop")


@pytest.fixture
def declare(program: str) -> Iterator[Declare]:
    with no_leaks(), Router() as router:

        def declare(node: str, handler: Any = ShellNode, **options: Any) -> Any:
            options = {"name": node, "mode": "persistent", **options}
            command = [program]
            return router.node(("n",), command=command, program_node=node, **options)(handler)

        yield declare


def results(node: Any, **fields: Any) -> list[Any]:
    return [result["n"] for result in node(**fields)]


@pytest.mark.parametrize("mode", ["auto", "persistent"])
def test_both_modes(declare: Declare, mode: str) -> None:
    """The first message in mode auto finds out the mode; the answers are the same."""
    node = declare("count", mode=mode, env={"EMIT_NODE": "count"})
    for n in (3, 0, 2000):
        assert results(node, n=n) == list(range(n))


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_five_megabytes(declare: Declare, codec: str) -> None:
    """A large message and a large result pass, many times the size of a pipe."""
    size = 5 * 2**20
    large = declare("large", codec=codec)
    assert results(large, n=size) == ["é" * (size // 2)]
    assert results(declare("size", codec=codec), Text="x" * size) == [size]


def test_killed_amid_a_call(declare: Declare, tmp_path: Path) -> None:
    """The message is tried on a fresh process; without attempts left it is a failure."""
    (tmp_path / "mark").touch()
    node = declare("die", max_attempts=2)
    (pid,) = results(node, File=str(tmp_path / "mark"))
    os.kill(pid, signal.SIGKILL)
    (again,) = results(node, File=str(tmp_path / "mark"))
    assert again != pid
    (tmp_path / "mark").touch()
    once = declare("die", name="once", max_attempts=1)
    with pytest.raises(ProcessDied):
        results(once, File=str(tmp_path / "mark"))


def test_prints_are_no_results(declare: Declare) -> None:
    """A print is not a result, even without a newline and with many calls in flight."""
    declare("printing", node := ShellNode())
    outcomes = list(node.call_many({"n": n} for n in range(200)))
    assert outcomes == [[n] for n in range(200)]


def test_calls_at_a_time(declare: Declare) -> None:
    """Two calls that wait for each other end, with one process and a concurrency of 2."""
    declare("meet", node := ShellNode(), size=1)
    # The first of many goes alone.
    assert list(node.call_many([{"n": 0}, {"n": 1}, {"n": 2}])) == [[0], [1], [2]]


def test_a_message_that_does_not_fit(declare: Declare) -> None:
    """The error has the node, the field and the type, and the process serves on."""
    node = declare("count")
    with pytest.raises(RemoteError, match=r"count: message\.n is text, which does not fit int"):
        node(n="three")
    with pytest.raises(RemoteError, match='count: message lacks "n"; it has: m'):
        node(m=1)
    assert results(node, n=3.0) == [0, 1, 2]
