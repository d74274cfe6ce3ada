"""The Node SDK at the real host: real pipes, kills, noise, large answers, an idle event loop."""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import CallTimeout, NodeError, RemoteError
from tests.hosts import ROOT
from tests.leaks import no_leaks

pytestmark = [pytest.mark.slow, pytest.mark.requires("node")]

SDK = ROOT / "sdks" / "node"
IMPORT = f"import {{ context, log, node, Reject, Retry, serve }} from '{SDK}/index.js';\n"
Declare = Callable[..., Any]


@pytest.fixture
def declare(tmp_path: Path) -> Iterator[Declare]:
    """Write a program, and declare the node ``n`` that it serves."""
    with no_leaks(), Router() as router:

        def declare(text: str, fields: tuple[str, ...] = ("n",), **options: Any) -> Any:
            (tmp_path / "program.mjs").write_text(IMPORT + text)
            options = {"name": "n", "cwd": str(tmp_path), **options}
            return router.node(fields, command=["node", "program.mjs"], **options)(ShellNode)

        yield declare


def results(node: Any, **fields: Any) -> list[Any]:
    return [result["n"] for result in node(**(fields or {"any": None}))]


@pytest.mark.parametrize("mode", ["auto", "persistent", "oneshot"])
def test_modes(declare: Declare, mode: str) -> None:
    """The same program is asked, long-lived or run for each message."""
    node = declare("node(function* n({ n }) { for (let i = 0; i < n; i++) yield i; });", mode=mode)
    for _ in range(3):
        assert results(node, n=3) == [0, 1, 2]


#: Another thread opens something between the close of a descriptor and our opening it anew.
RACE = """
import fs from 'node:fs';
const { openSync } = fs;
const taken = [];
fs.openSync = (...given) => {
  const theirs = openSync('/dev/zero');
  const isFirst = theirs < 2 && !taken.includes(theirs);
  if (isFirst) taken.push(theirs);
  else fs.closeSync(theirs);
  const ours = openSync(...given);
  if (isFirst) fs.closeSync(theirs);
  return ours;
};
process.on('exit', () => console.error(taken));
"""


def test_a_descriptor_that_another_thread_takes(tmp_path: Path) -> None:
    """The wire is taken all the same: Node's own threads open a file now and then."""
    (tmp_path / "race.mjs").write_text(RACE)
    (tmp_path / "n.mjs").write_text(IMPORT + "node('n', ({ n }) => n);")
    command = ["node", "--import", str(tmp_path / "race.mjs"), str(tmp_path / "n.mjs")]
    done = subprocess.run(command, input='{"n": 3}', capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr
    assert done.stderr == "[ 0, 1 ]\n"


VALUES = [
    None,
    True,
    0,
    -1,
    2**53 - 1,
    2**53 + 1,
    -(2**53) - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    0.1,
    -0.0,
    1e20,
    5e-324,
    "",
    "a\u2028\0e\u0301\U0001f600",
    [],
    {},
    {"__proto__": {"constructor": [1]}},
    [[1.5, [2**60, {"": None}]]],
]
BINARY = [
    b"",
    b"\x00\xff\n",
    float("inf"),
    datetime.datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=datetime.timezone.utc),
    datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=datetime.timezone.utc),
]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_values(declare: Declare, codec: str) -> None:
    """They come back as they went, those between Node's integers and its instants too."""
    node = declare("node('n', ({ n }) => n);", codec=codec, mode="persistent")
    for value in VALUES + (BINARY if codec == "msgpack" else []):
        assert repr([value]) == repr(results(node, n=value))


def test_noise_is_no_result(declare: Declare) -> None:
    """Prints of the handler, of a child and of the console; reads find the end of input."""
    node = declare("""
import { spawnSync } from 'node:child_process';
import { readFileSync, writeSync } from 'node:fs';
node('n', () => {
  console.log('noise');
  process.stdout.write('{"op":"end","id":1,"msgs":["forged"]}\\n');
  writeSync(1, '\\n{"op":"end","id":1,"msgs":["forged"]}\\n');
  const child = spawnSync('sh', ['-c', 'echo noise; cat'], { stdio: 'inherit' });
  return readFileSync(0, 'utf8') + child.status;
});""")
    for _ in range(3):
        assert results(node) == ["0"]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_large_answer_and_then_an_exit(declare: Declare, codec: str) -> None:
    """Nothing of 5 MB is cut off, although the process ends at once."""
    node = declare(
        "node('n', ({ n }) => { setImmediate(() => process.exit(0)); return 'x'.repeat(n); });",
        codec=codec,
        mode="persistent",
    )
    assert len(results(node, n=5_000_000)[0]) == 5_000_000


def test_a_stream(declare: Declare) -> None:
    """Many results come in order, whatever the host's limit for one call without stream is."""
    node = declare(
        "node(async function* n({ n }) { for (let i = 0; i < n; i++) yield i; });",
        stream=True,
        mode="persistent",
    )
    assert sum(results(node, n=100_000)) == 4_999_950_000


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_small_frames(declare: Declare, codec: str) -> None:
    """A frame is measured in bytes, whatever the characters; a result that fits in none is told."""
    text = "node(function* n({ n }) { for (let i = 0; i < 40; i++) yield '\u4e16'.repeat(n); });"
    node = declare(text, codec=codec, mode="persistent", max_frame=20_000)
    assert results(node, n=1000) == ["\u4e16" * 1000] * 40
    assert results(node, n=6600) == ["\u4e16" * 6600] * 40
    with pytest.raises(NodeError, match=r"a result of 210\d\d bytes.*max_frame"):
        node(n=7000)


def test_a_killed_process_is_replaced(declare: Declare) -> None:
    """The message goes to another one."""
    node = declare(
        """
import { existsSync, writeFileSync } from 'node:fs';
node('n', () => {
  if (!existsSync('once')) { writeFileSync('once', ''); process.kill(process.pid, 'SIGKILL'); }
  return 'alive';
});""",
        mode="persistent",
    )
    assert results(node) == ["alive"]


def test_errors(declare: Declare) -> None:
    """A RemoteError has the author's line and the cause; Retry and Reject say what they say."""
    node = declare(
        """
import fs from 'node:fs';
node('n', ({ kind }) => {
  if (kind === 'system') fs.readFileSync('/no/such/file');
  if (kind === 'retry') throw new Retry('busy', { after: 0.01 });
  if (kind === 'reject') throw new Reject('never');
  if (kind === 'value') return { at: [1, new Map()] };
  if (kind === 'never') return new Promise(() => {});
  return null.field;
});""",
        mode="persistent",
        max_attempts=2,
    )
    for kind, says in {
        "system": "ENOENT",
        "retry": "busy",
        "reject": "never",
        "value": r"result\.at\[1\] is a Map",
        "never": "n never ends",
        "native": "Cannot read properties of null",
    }.items():
        with pytest.raises(NodeError, match=says) as caught:
            node(kind=kind)
        if kind == "system":
            assert isinstance(caught.value, RemoteError)
            assert "program.mjs:5" in caught.value.stack[0]


def test_a_handler_that_keeps_the_thread_is_killed_at_its_deadline(declare: Declare) -> None:
    """The host does it: no signal can reach it."""
    node = declare("node('n', () => { for (;;); });", mode="persistent", timeout=2.0)
    with pytest.raises(CallTimeout):
        results(node)


def test_logging(declare: Declare, caplog: pytest.LogCaptureFixture) -> None:
    """console and log are log records of the node, at their levels."""
    caplog.set_level("DEBUG", "emit.node.n")
    node = declare(
        """
node('n', async () => {
  console.warn('from %s', 'console');
  await null;
  log.error('from log');
  return context().node;
});""",
        mode="persistent",
    )
    assert results(node) == ["n"]
    said = {record.getMessage(): record.levelname for record in caplog.records}
    assert said["from console"] == "WARNING"
    assert said["from log"] == "ERROR"


# Over bare pipes, as a host


class Pipes:
    """A program, and the frames that it writes."""

    def __init__(self, folder: Path, text: str, max_frame: int = 1 << 20) -> None:
        self.sizes: list[int] = []
        (folder / "program.mjs").write_text(IMPORT + text)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            ["node", "program.mjs"], cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe
        )
        self.send(op="hello", v=[1], codecs=["json"], node="n", max_frame=max_frame)
        self.ready = self.read()

    def send(self, *frames: Any, **frame: Any) -> None:
        assert self.process.stdin
        lines = [json.dumps(each) for each in frames or [frame]]
        self.process.stdin.write("".join(f"\n{line}\n" for line in lines).encode())
        self.process.stdin.flush()

    def read(self) -> Any:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.strip():
                self.sizes.append(len(line))
                return json.loads(line)
        return None

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()


def call(number: int, node: str = "n", **msg: Any) -> dict[str, Any]:
    return {"op": "call", "id": number, "node": node, "msg": msg}


SLOW = """
import { existsSync, writeFileSync } from 'node:fs';
const still = new Int32Array(new SharedArrayBuffer(4));
node('quick', () => 'quick');
node('slow', function* () {
  yield 'first';
  while (!existsSync('go')) Atomics.wait(still, 0, 0, 5);
  yield 'last';
});
"""


def test_no_result_waits_for_a_slow_handler(tmp_path: Path) -> None:
    """A finished call, and what one that keeps the thread has yielded, arrive meanwhile."""
    with Pipes(tmp_path, SLOW) as pipes:
        pipes.send(call(1, "quick"), call(2, "slow"))
        assert pipes.read() == {"op": "end", "id": 1, "msgs": ["quick"]}
        assert pipes.read() == {"op": "out", "id": 2, "msgs": ["first"]}
        (tmp_path / "go").touch()
        assert pipes.read()["id"] == 2


@pytest.mark.parametrize("how", ["close", "bye", "term"])
def test_accepted_calls_are_finished_before_the_exit(tmp_path: Path, how: str) -> None:
    """End of input, bye and SIGTERM let an open call finish; SIGINT changes nothing."""
    text = """
import { existsSync } from 'node:fs';
node('n', async function* () {
  yield 'first';
  while (!existsSync('go')) await new Promise((done) => setTimeout(done, 5));
  yield 'last';
});
process.on('exit', () => process.stderr.write('cleaned\\n'));"""
    with Pipes(tmp_path, text) as pipes:
        assert pipes.process.stdin
        assert pipes.process.stderr
        pipes.process.send_signal(signal.SIGINT)
        pipes.send(call(1))
        assert pipes.read() == {"op": "out", "id": 1, "msgs": ["first"]}
        if how == "close":
            pipes.process.stdin.close()
        elif how == "bye":
            pipes.send(op="bye")
        else:
            pipes.process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert pipes.read() == {"op": "end", "id": 1, "msgs": ["last"]}
        assert pipes.process.stderr.read() == b"cleaned\n"
        assert pipes.process.wait(30) == 0


def test_a_handler_that_waits_on_and_on_is_left_after_the_grace(tmp_path: Path) -> None:
    """The program ends within 5 s of the end of input, with status 1."""
    with Pipes(tmp_path, "node('n', () => new Promise((done) => setTimeout(done, 1e6)));") as pipes:
        pipes.send(call(1))
        assert pipes.process.stdin
        pipes.process.stdin.close()
        assert pipes.process.wait(30) == 1


def test_a_deadline_reaches_the_handler(tmp_path: Path) -> None:
    """Its signal aborts, and remaining() has counted down."""
    text = """
import { setTimeout as sleep } from 'node:timers/promises';
node('n', async (_, { signal, remaining }) => {
  const before = remaining();
  await sleep(1e6, null, { signal }).catch(() => {});
  return [before, remaining(), signal.reason.name];
});"""
    with Pipes(tmp_path, text) as pipes:
        pipes.send({**call(1), "meta": {"deadline_ms": 50}})
        [[before, after, reason]] = pipes.read()["msgs"]
        assert 0.05 >= before > after
        assert after < 0.01  # a timer of Node may be a millisecond early
        assert reason == "TimeoutError"


@pytest.mark.parametrize("letter", ["x", "\\u0001", "\\u4e16"])
def test_an_error_and_a_log_over_max_frame_are_cut(tmp_path: Path, letter: str) -> None:
    """The text is cut so that its frame fits into the host's limit."""
    text = f"""
node('n', () => {{
  log.warn('{letter}'.repeat(8000));
  throw new Reject('{letter}'.repeat(8000), {{ cause: new Error('y'.repeat(8000)) }});
}});"""
    with Pipes(tmp_path, text, max_frame=5000) as pipes:
        pipes.send(call(1))
        log, err = pipes.read(), pipes.read()
        assert (log["op"], log["id"], err["op"], err["retry"]) == ("log", 1, "err", False)
        for said in log["text"], err["message"]:
            assert said == letter.encode().decode("unicode_escape") * 800
        assert max(pipes.sizes) <= 5000


def test_a_cancel_reaches_a_handler_that_never_awaits(tmp_path: Path) -> None:
    """It asks `cancelled`; a call behind it is not lost."""
    with Pipes(
        tmp_path,
        "node(function* n(_, call) { yield 'began'; while (!call.cancelled); yield 'noticed'; });",
    ) as pipes:
        pipes.send(call(1))
        assert pipes.read()["msgs"] == ["began"]
        pipes.send(call(2), {"op": "cancel", "id": 2}, {"op": "cancel", "id": 1})
        answers = [pipes.read() for _ in range(3)]
        assert [answer["id"] for answer in answers] == [1, 1, 2]
        assert (answers[0]["msgs"], answers[2]["type"]) == (["noticed"], "Cancelled")


def test_a_handler_that_only_a_cancel_can_end(tmp_path: Path) -> None:
    """It is not taken for one that never ends: the host may still cancel."""
    text = """
node('n', (_, { signal }) => new Promise((_, fail) => {
  signal.addEventListener('abort', () => fail(signal.reason));
}));
process.on('beforeExit', () => console.error('beforeExit'));"""
    with Pipes(tmp_path, text) as pipes:
        pipes.send(call(1))
        pipes.send(op="cancel", id=1)
        assert pipes.read()["type"] == "Cancelled"
        pipes.send(op="ping", n=1)
        assert pipes.read() == {"op": "pong", "n": 1}


def test_no_more_calls_than_announced(tmp_path: Path) -> None:
    """The others wait, in order."""
    text = """
let now = 0, most = 0;
node('n', async ({ n }) => {
  most = Math.max(most, ++now);
  await new Promise((done) => setTimeout(done, 2));
  now--;
  return [n, most];
});
serve({ concurrency: 3 });"""
    with Pipes(tmp_path, text) as pipes:
        assert pipes.ready["concurrency"] == 3
        pipes.send(*(call(number, n=number) for number in range(1, 31)))
        answers = [pipes.read() for _ in range(30)]
        assert sorted(answer["msgs"][0][0] for answer in answers) == list(range(1, 31))
        assert max(answer["msgs"][0][1] for answer in answers) == 3


# The package


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive that ``npm publish`` would publish."""
    if shutil.which("npm") is None:
        pytest.skip("left out: npm (not found)")
    folder = tmp_path_factory.mktemp("pack")
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
    subprocess.run(command, cwd=SDK, check=True, capture_output=True)
    [tarball] = folder.glob("*.tgz")
    return tarball


def test_the_package_has_what_it_needs_and_no_more(tarball: Path) -> None:
    """The sources, the types and the README."""
    with tarfile.open(tarball) as files:
        names = {name.removeprefix("package/") for name in files.getnames()}
    sources = {f"lib/{file.name}" for file in (SDK / "lib").iterdir()}
    assert names == sources | {"index.js", "index.d.ts", "package.json", "README.md"}


def test_the_package_installed_elsewhere(tarball: Path, tmp_path: Path) -> None:
    """The package works by import and by require; the launcher finds it before Emit's copy."""
    subprocess.run(
        ["npm", "install", "--silent", "--offline", "--no-audit", str(tarball)],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    code = "from 'emit-graph-sdk';\nexport default node(function twice({ n }) { return n * 2; });\n"
    (tmp_path / "twice.mjs").write_text(f"import {{ node }} {code}")
    (tmp_path / "half.cjs").write_text(
        "const { node } = require('emit-graph-sdk');\n"
        "module.exports = node(function half({ n }) { return n / 2; });\n"
    )
    for program, printed in {"twice.mjs": "8\n", "half.cjs": "2\n"}.items():
        launch = str(ROOT / "runtimes" / "node" / "launch.cjs")
        for command in (["node", program], ["node", launch, program]):
            done = subprocess.run(
                command, cwd=tmp_path, input='{"n": 4}', capture_output=True, text=True, check=True
            )
            assert (done.stdout, done.stderr) == (printed, "")


@pytest.mark.parametrize("template", ["plain", "sdk"])
def test_the_templates_pass_their_test(tmp_path: Path, template: str) -> None:
    """The files of ``emit new`` pass their test with nothing installed."""
    folder = ROOT / "runtimes" / "node"
    for name, file in {template: "words.mjs", "test": "words.test.mjs"}.items():
        text = (folder / "template" / f"{name}.mjs").read_text()
        (tmp_path / file).write_text(text.replace("{{name}}", "words"))
    done = subprocess.run(
        ["node", "--import", str(folder / "resolve.mjs"), "--test", "words.test.mjs"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass 1\n" in done.stdout


def test_versions_agree() -> None:
    """The package and Emit have the same version."""
    import emit

    assert json.loads((SDK / "package.json").read_text())["version"] == emit.__version__
