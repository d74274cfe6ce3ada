"""The configuration of a node: which program gets it, how, and who never sees it."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.drawing import outline
from emit.drawing.formats import text
from emit.errors import EmitError, GraphError
from emit.host import host
from emit.host.settings import Settings
from emit.host.shared.data import Described, from_node, to_node
from emit.host.system.program import Program
from tests.faults.nodes import PATH, sdk
from tests.leaks import no_leaks
from tests.shared_hosts import listening

SECRET = "hunter2-sesame"
CONFIG = {"url": "db://shop", "password": SECRET, "limits": [1, 2.5, None]}

#: Returns its config, as a handler reads it, and the id of its process.
TELLS = sdk(
    """
    def tell(msg): return [context().config, os.getpid()]
    def fail(msg): raise ValueError(sorted(context().config))
    def die(msg): os._exit(7)
    for each in (tell, fail, die):
        node(each)
    serve()
    """
)
#: The same of a program without an SDK.
SHELL = ["sh", "-c", 'while read -r line; do printf "%s\\n" "$EMIT_CONFIG"; done']


@pytest.fixture
def router() -> Iterator[Router]:
    with no_leaks():
        router = Router()
        yield router
        router.close()


def declare(router: Router, name: str = "tell", **options: Any) -> Any:
    options = {"command": TELLS, "env": {"PYTHONPATH": PATH}, "size": 1, **options}
    if options["command"] is TELLS:
        options.setdefault("program_node", name)
    return router.node(("n",), name=name, **options)(ShellNode)


@pytest.mark.parametrize("codec", [None, "json"])
@pytest.mark.parametrize("mode", ["oneshot", "auto", "persistent"])
def test_a_program_with_an_sdk(router: Router, mode: str, codec: str | None) -> None:
    """A handler reads it, whether its process lives for one message or for many."""
    tell = declare(router, mode=mode, codec=codec, config=CONFIG)
    for _ in range(2):  # in mode auto the second message is another process's
        assert tell(x=1)[0]["n"][0] == CONFIG


@pytest.mark.parametrize("mode", ["oneshot", "auto", "lines"])
def test_a_program_without_an_sdk(router: Router, mode: str) -> None:
    """It is in EMIT_CONFIG, as a map on one line."""
    tell = declare(router, command=SHELL, mode=mode, config=CONFIG)
    assert [tell(x=1), tell(x=1)] == [({"n": CONFIG},)] * 2


def test_without_a_config(router: Router) -> None:
    """An SDK gives an empty map, and there is no variable."""
    assert declare(router)(x=1)[0]["n"][0] == {}
    shell = declare(router, "shell", command=["sh", "-c", "echo ${EMIT_CONFIG-null}"])
    assert shell(x=1) == ({"n": None},)


def test_a_long_lived_process_has_no_variable(router: Router) -> None:
    """A program that a handler starts does not get the config in its environment."""
    command = sdk("def read(msg): return os.environ.get('EMIT_CONFIG')\nserve(read)")
    for mode in ("persistent", "oneshot"):
        assert declare(router, mode, command=command, mode=mode, config=CONFIG)(x=1) == ()


def test_nodes_with_another_config_share_no_process(router: Router) -> None:
    """Two nodes of one program share its processes only if they have the same config."""
    tells = [
        declare(router, f"tell{n}", program_node="tell", mode="persistent", config=config)
        for n, config in enumerate([CONFIG, {"url": "other"}, CONFIG])
    ]
    told = [tell(x=1)[0]["n"] for tell in tells]
    assert [config for config, _ in told] == [CONFIG, {"url": "other"}, CONFIG]
    assert told[0][1] == told[2][1] != told[1][1]


def test_in_a_class(router: Router) -> None:
    """As every setting it may be an attribute, and an option of the router wins."""

    class Tell(ShellNode):
        command = SHELL
        mode = "lines"
        config = {"from": "class"}  # noqa: RUF012

    assert router.node(("n",), name="a")(Tell)(x=1) == ({"n": {"from": "class"}},)
    other = router.node(("n",), name="b", config={"from": "option"})(Tell)
    assert other(x=1) == ({"n": {"from": "option"}},)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ([SECRET], "config must be a map of names to values, not list"),
        (SECRET, "config must be a map of names to values, not str"),
        ({"a": [{"b": {SECRET}}]}, r"config\.a\[0\]\.b: builtins\.set is no value of the wire"),
        ({1: SECRET}, "config: has a key of type int"),
        ({"a": 2**64}, "config.a: an integer beyond 64 bits; give it as text$"),
        ({"a": float("nan")}, "config.a: nan has no form in JSON$"),
        ({"a": SECRET.encode()}, "config.a: a bytes object has no form in JSON$"),
        ({"a": SECRET * 5000}, "config takes 70008 bytes in JSON, and at most 65536 are"),
    ],
)
def test_what_cannot_be_sent(router: Router, config: Any, says: str) -> None:
    """A wrong config is refused at the declaration; the text has its place and no value."""
    with pytest.raises(GraphError, match=f'^"tell": {says}') as caught:
        declare(router, config=config)
    assert SECRET not in str(caught.value)
    assert router.names == set()


def test_a_small_max_frame(router: Router) -> None:
    """A config that would not fit into the first frame is refused as well."""
    with pytest.raises(GraphError, match="config takes 608 bytes in JSON, and at most 512 are"):
        declare(router, config={"a": "x" * 600}, max_frame=1024)


def test_it_is_shown_nowhere(
    router: Router, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither logs nor errors, letters, figures, drawings and reprs have it."""
    caplog.set_level(logging.DEBUG)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    letters: list[Any] = []
    seen: list[Any] = []
    for mode in ("oneshot", "persistent"):
        for name in ("fail", "die"):
            options = {"mode": mode, "program_node": name, "max_attempts": 1, "config": CONFIG}
            node = declare(router, f"{name}.{mode}", dead_letter=letters.append, **options)
            try:
                node(x=1)
            except EmitError as error:
                seen += [error, vars(error), error.__cause__]
    assert letters
    current = host.current()
    assert isinstance(current, host.Host)
    seen += [letters, [vars(letter) for letter in letters], router, current, current.pools]
    seen += [current.snapshot(), *(current.describe(name) for name in router.names)]
    seen += [pool.processes for pool in current.pools]
    seen += [outline(router), text(outline(router))]
    said = f"{seen!r} {seen} {caplog.text} {stderr.getvalue()}"
    assert "die.persistent" in said
    assert SECRET not in said


APP = f"""
from emit import Router, ShellNode
router = Router()
@router.node(("n",), entry_point=True, mode="persistent", config={{"password": {SECRET!r}}})
class Tell(ShellNode):
    command = {TELLS!r}
    env = {{"PYTHONPATH": {PATH!r}}}
    program_node = "fail"
"""


@pytest.mark.parametrize(
    "words",
    [["check"], ["graph"], ["inspect", "app.Tell"], ["call", "app.Tell", "{}"]],
    ids=" ".join,
)
def test_the_command_line_does_not_show_it(tmp_path: Path, words: list[str]) -> None:
    """Commands that read or run the node print its name, and not its config."""
    (tmp_path / "app.py").write_text(APP)
    emit = str(Path(sys.executable).parent / "emit")
    where = ":".join(["app.router", *words[1:2]])
    command = [emit, words[0], where, *words[2:]]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    said = ran.stdout + ran.stderr
    assert "nothing found" in said or "Tell" in said or "fail" in said
    assert SECRET not in said


def test_the_description_for_a_shared_host() -> None:
    """It arrives as it was, makes another node, and its repr is silent."""
    one, two = (
        Described(Program("n", ("cat",), {}, config=json.dumps(config)), Settings())
        for config in (CONFIG, {"url": "other"})
    )
    assert to_node("n", from_node(one)) == one
    assert one.key != two.key
    assert SECRET not in repr(one)


CLIENT = """
import json, sys
from emit import Router, ShellNode
router = Router()
tell = router.node(("n",), name="tell", mode="persistent", size=1, program_node="tell",
                   command=json.loads(sys.argv[1]), env={"PYTHONPATH": sys.argv[2]},
                   config=json.loads(sys.argv[3]))(ShellNode)
print(json.dumps([tell(x=1)[0]["n"], tell(x=1)[0]["n"]]))
"""


def test_clients_of_a_shared_host(short_folder: Path) -> None:
    """Clients with other configs share no process, and each program has its client's."""
    path = short_folder / "host.sock"
    configs = [CONFIG, {"url": "other"}, CONFIG, {}]
    told = []
    with listening(path) as server:
        for config in configs:
            words = [json.dumps(TELLS), PATH, json.dumps(config)]
            ran = subprocess.run(
                [sys.executable, "-c", CLIENT, *words],
                env={**os.environ, "EMIT_HOST": str(path)},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            told.append(json.loads(ran.stdout))
        server.terminate()
        assert SECRET not in server.communicate(timeout=60)[1]
    assert [config for tells in told for config, _ in tells] == [c for c in configs for _ in "12"]
    pids = [tells[0][1] for tells in told]
    assert pids[0] == pids[2]
    assert len(set(pids)) == 3
