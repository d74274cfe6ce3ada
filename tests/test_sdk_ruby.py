"""The Ruby SDK through the real host, and as a gem away from the checkout."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import EncodeError, ProcessDied, RemoteError
from tests.hosts import ROOT
from tests.leaks import no_leaks

pytestmark = [pytest.mark.slow, pytest.mark.requires("ruby", "ruby-msgpack")]

SDK = ROOT / "sdks" / "ruby"

PROGRAM = """
require "emit"

Emit.node(:echo) { |msg| msg[:value] }

Emit.node(:die) do |msg|
  next "lives" if File.exist?(msg[:mark])

  File.write(msg[:mark], "")
  Process.kill(:KILL, Process.pid)
end

Emit.node(:garbage) do |_msg|
  puts '{"op":"end","id":1,"msgs":["forged"]}'
  $stdout.write("\\x00\\xFF no newline")
  STDOUT.flush
  system("echo from a child")
  "real"
end

Emit.node(:fail) { |msg| Integer(msg[:text]) }

Emit.node(:pid) { |_msg| Process.pid }
"""

Declare = Any


@pytest.fixture
def declare(tmp_path: Path) -> Iterator[Declare]:
    """Declare a node of PROGRAM, with the field ``value``."""
    file = tmp_path / "program.rb"
    file.write_text(PROGRAM)
    with no_leaks(), Router() as router:

        def declare(name: str, shell: ShellNode | None = None, **settings: Any) -> Any:
            settings = {"mode": "persistent", "size": 1, **settings}
            settings |= {"command": ["ruby", "-w", str(file)], "program_node": name}
            settings["env"] = {"RUBYLIB": str(SDK / "lib")}
            return router.node(("value",), name=name, **settings)(shell or ShellNode)

        declare.close = router.close
        yield declare


def value(node: Any, **fields: Any) -> Any:
    [result] = node(**fields)
    return result["value"]


def test_auto_finds_out_that_it_is_long_lived(declare: Declare) -> None:
    """One process serves all messages after the probe."""
    node = declare("pid", mode="auto")
    value(node, n=1)
    assert len({value(node, n=1) for _ in range(20)}) == 1


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_large_messages_and_values(declare: Declare, codec: str) -> None:
    """5 MB go through whole, and all else comes back as it went."""
    node = declare("echo", codec=codec)
    for sent in ("é" * 2_500_000, [2**64 - 1, -(2**63), 1.5, None, {"": {"\u2028": []}}]):
        assert value(node, value=sent) == sent
    if codec == "msgpack":
        assert value(node, value=b"\x00\xff") == b"\x00\xff"
    else:
        with pytest.raises(EncodeError, match="value"):
            node(value=b"\x00\xff")


def test_many_at_once(declare: Declare) -> None:
    """Thousands in flight come back in order, each to its own message."""
    declare("echo", shell := ShellNode())
    outcomes = shell.call_many({"value": number} for number in range(5_000))
    assert [outcome[0] for outcome in outcomes] == list(range(5_000))


def test_a_killed_process_is_replaced(declare: Declare, tmp_path: Path) -> None:
    """The message goes to a fresh process."""
    assert value(declare("die"), mark=str(tmp_path / "mark")) == "lives"


def test_a_message_that_kills_each_process(declare: Declare, tmp_path: Path) -> None:
    """It is given up, and the next one runs."""
    node = declare("die", max_attempts=1)
    with pytest.raises(ProcessDied, match="SIGKILL"):
        node(mark=str(tmp_path / "mark"))
    assert value(node, mark=str(tmp_path / "mark")) == "lives"


def test_prints_are_no_frames(declare: Declare, caplog: pytest.LogCaptureFixture) -> None:
    """Neither those that look like frames, nor those of a child process."""
    caplog.set_level(logging.INFO, "emit")
    assert value(declare("garbage"), n=1) == "real"
    declare.close()  # its stderr is read to the end
    assert "forged" in caplog.text
    assert "from a child" in caplog.text


def test_an_error_has_the_authors_line(declare: Declare) -> None:
    """Its type, its text and the place in the program."""
    with pytest.raises(RemoteError, match="invalid value for Integer") as caught:
        declare("fail")(text="x")
    assert caught.value.type == "ArgumentError"
    assert "program.rb:" in "".join(caught.value.stack[:2])


def test_the_gem(tmp_path: Path) -> None:
    """Built, installed from its file, and used in an empty folder by a program and by Emit."""
    gem, home, place = tmp_path / "sdk.gem", tmp_path / "gems", tmp_path / "empty"
    place.mkdir()
    run("gem", "build", "--strict", "--output", str(gem), "emit-graph-sdk.gemspec", cwd=SDK)
    install = ("gem", "install", "--local", "--no-document", "--install-dir", str(home), str(gem))
    run(*install, cwd=place)
    env = {"GEM_HOME": str(home)}
    (place / "where.rb").write_text(
        'require "emit"\nEmit.node { |_msg| $LOADED_FEATURES.grep(%r{/lib/emit.rb}) }\n'
    )
    by_hand = run("ruby", "-w", "where.rb", cwd=place, env=env, input="{}\n")
    assert by_hand.startswith(f'["{home}/gems/emit-graph-sdk-')
    with Router() as router:
        node = router.node(("path",), name="n", file=place / "where.rb", env=env)(ShellNode)
        [result] = node(n=1)
    assert result["path"][0].startswith(str(home))


def run(*command: str, cwd: Path, env: dict[str, str] | None = None, input: str = "") -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        input=input,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
