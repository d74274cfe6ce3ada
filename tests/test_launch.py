"""
The way from a file to its program: toolchains, packages and builds, with a language made for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import GraphError, ProcessDied, StartError
from emit.host import host
from emit.host.language import build, launch
from tests.hosts import ROOT, until
from tests.leaks import no_leaks

pytestmark = pytest.mark.slow

#: A toy file holds the word that the node emits. It is built into a program, by a compiler that
#: keeps count, fails at "mistake", takes its time at "slow", and is "killed", or a "part" of it.
TOML = """
name = "toy"
suffixes = [".toy"]
folders = true
[detect]
command = ["toy", "--version"]
minimum = "1.10"
install = "get toy"
[dependencies]
manifest = "toys"
check = ["toy", "check", "{manifest}"]
install = "toy install"
prefix = ["env", "PREFIXED=yes"]
env = { TOYS = "{manifest}" }
[build]
command = ["toy", "build", "{file}", "{function}", "{output}"]
[launch]
command = ["{python}", "{runtime}/launch.py", "{output}", "{function}"]
env = { TOY = "{runtime}", OWN = "runtime" }
"""

PLAIN_LAUNCH = 'command = ["{output}"]'

TOOL = """#!/bin/sh
echo "$*" >>"$LOG"
case $1 in
  --version) echo "toy ${VERSION-1.10.2}"; exit "${STATUS-0}" ;;
  check) test -e "$2.installed" || { echo 'no brick' >&2; exit 1; } ;;
  build)
    if grep -q mistake "$2"; then echo '# words' >&2; echo "$2:1: a mistake" >&2; exit 2; fi
    if ! test -e "$LOG.spared"; then
      if grep -q killed "$2"; then kill -9 $$; fi
      if grep -q part "$2"; then echo 'link: signal: killed' >&2; exit 1; fi
    fi
    echo half >"$4"
    while grep -q slow "$2" && ! test -e "$LOG.go"; do sleep 0.01; done
    cat "$2" >"$4" ;;
esac
"""

LAUNCHER = """
import json, os, sys
sys.path.append({sdk!r})
from emit_sdk import serve

if "wreck" in open(sys.argv[1]).read():
    sys.exit("it is a wreck")

def words(msg):
    word = open(sys.argv[1]).read().strip()
    yield word, sys.argv[2:], {{n: os.environ.get(n) for n in ("TOY", "OWN", "TOYS", "PREFIXED")}}

serve(words)
"""

Declare = Callable[..., Any]


class Toys:
    """A project with files of the toy language, and what its tool was called for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.runtime = folder / "emit_runtimes" / "toy"
        self.write("bin/toy", TOOL).chmod(0o755)
        self.write("emit_runtimes/toy/runtime.toml", TOML)
        self.write("emit_runtimes/toy/launch.py", LAUNCHER.format(sdk=str(ROOT / "sdks/python")))
        self.write("words.toy", "rain")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def called(self, action: str) -> int:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(line.split()[0] == action for line in lines)

    @property
    def builds(self) -> list[Path]:
        folder = self.folder / "cache" / "emit" / "toy"
        return sorted(path for path in folder.glob("*") if path.suffix != ".lock")


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    launch._known.clear()
    launch._failed.clear()
    with no_leaks():
        yield


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toys:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Toys(tmp_path)


@pytest.fixture
def toy(toys: Toys) -> Iterator[Declare]:
    """Call a node of a toy file, newly declared, and give its word."""
    routers = []

    def call(file: str = "words.toy", *, whole: bool = False, **options: Any) -> Any:
        env = {"LOG": str(toys.log), **options.pop("env", {})}
        routers.append(router := Router())
        options = {"name": "words", "file": file, **options}
        node = router.node(("word", "argv", "env"), env=env, **options)(ShellNode)
        (result,) = node(x=0)
        return result if whole else result["word"]

    yield call
    for router in routers:
        router.close()


# The toolchain


def test_a_file_is_detected_built_and_launched(toys: Toys, toy: Declare) -> None:
    """Each once, and never again while nothing changes."""
    assert toy() == toy() == toy() == "rain"
    assert [toys.called(action) for action in ("--version", "check", "build")] == [1, 0, 1]


def test_its_environment(toys: Toys, toy: Declare) -> None:
    """The language's variables are set; the node's own win; an empty function adds no argument."""
    result = toy(whole=True)
    assert result["argv"] == []
    assert result["env"] == {
        "TOY": str(toys.runtime),
        "OWN": "runtime",
        "TOYS": None,
        "PREFIXED": None,
    }
    result = toy("words.toy:words", env={"OWN": "node"}, whole=True)
    assert (result["argv"], result["env"]["OWN"]) == (["words"], "node")


def test_a_toolchain_that_is_missing(toys: Toys, toy: Declare) -> None:
    """The error names the language, what to run, and where it was looked for."""
    (toys.folder / "bin" / "toy").unlink()
    says = r'"words" cannot be started: toy was not found.*install it: get toy; PATH = .*/bin'
    with pytest.raises(StartError, match=says) as caught:
        toy()
    assert not caught.value.started


def test_a_host_that_ignores_its_children(toys: Toys, toy: Declare) -> None:
    """A file starts, and the error of one that fails is its own."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert toy() == "rain"
        toys.write("words.toy", "wreck")
        with pytest.raises(StartError, match="ended with exit code 1 after"):
            toy()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_toolchain_that_is_too_old(toys: Toys, toy: Declare) -> None:
    """A program that runs all the same is not stopped by a number."""
    assert toy(env={"VERSION": "1.9"}) == "rain"


def test_a_start_that_fails_with_an_old_toolchain(toys: Toys, toy: Declare) -> None:
    """The error says that the version may be the reason; versions are compared as numbers."""
    toys.write("words.toy", "wreck")
    with pytest.raises(StartError, match=r"exit code 1.*toy 1\.9 is older than 1\.10.*get toy"):
        toy(env={"VERSION": "1.9"})
    with pytest.raises(StartError) as caught:
        toy()
    assert "older" not in str(caught.value)


def test_a_message_that_fails_with_an_old_toolchain(toys: Toys, toy: Declare) -> None:
    """Each message is a start in mode oneshot. No packages are checked for it: that takes long."""
    toys.write("words.toy", "wreck")
    with pytest.raises(ProcessDied, match=r"exit code 1.*toy 1\.9 is older than 1\.10.*get toy"):
        toy(env={"VERSION": "1.9"}, mode="oneshot")
    assert toys.called("check") == 0
    with pytest.raises(ProcessDied) as caught:
        toy(mode="oneshot")
    assert "older" not in str(caught.value)


def test_a_build_that_fails_with_an_old_toolchain(toys: Toys, toy: Declare) -> None:
    """The compiler has the first word."""
    toys.write("words.toy", "mistake")
    says = r"it does not build \(.*words\.toy:1: a mistake; toy 1\.9 is older than 1\.10"
    with pytest.raises(StartError, match=says):
        toy(env={"VERSION": "1.9"})


def test_a_toolchain_that_was_replaced(toys: Toys, toy: Declare) -> None:
    """Another version at the same place is seen."""
    toys.write("words.toy", "wreck")
    with pytest.raises(StartError, match="older than"):
        toy(env={"VERSION": "1"})
    toys.write("bin/toy", TOOL.replace("${VERSION-1.10.2}", "1.11"))
    os.utime(toys.folder / "bin" / "toy", ns=(1, 1))
    with pytest.raises(StartError) as caught:
        toy(env={"VERSION": "1"})
    assert "older" not in str(caught.value)


@pytest.mark.parametrize("manager", [".rbenv", ".asdf", "mise"])
def test_a_version_manager_that_has_no_version(
    toys: Toys, toy: Declare, manager: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shim is there, so the advice is to choose a version, and not to install the language."""
    shim = toys.write(
        f"home/{manager}/shims/toy", "#!/bin/sh\necho no version is set >&2\nexit 1\n"
    )
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    name = manager.removeprefix(".")
    table = (
        f'[detect.install]\nsh = "sh get toy"\n{name} = "{name} set toy VERSION"\n[dependencies]'
    )
    toml = TOML.replace('install = "get toy"\n[dependencies]', table)
    os.utime(toys.write("emit_runtimes/toy/runtime.toml", toml), ns=(1, 1))
    says = rf"no version is set.*{shim} is {name}'s and has no version.*: {name} set toy VERSION"
    with pytest.raises(StartError, match=says) as caught:
        toy()
    assert "sh get toy" not in str(caught.value)


def test_advice_fits_the_machine(toys: Toys, toy: Declare) -> None:
    """The advice is the first way to install the language whose program is on this machine."""
    table = '[detect.install]\nno-such-tool = "a"\nsh = "b"\nenv = "c"\nsee = "d"\n[dependencies]'
    toml = TOML.replace('install = "get toy"\n[dependencies]', table)
    os.utime(toys.write("emit_runtimes/toy/runtime.toml", toml), ns=(1, 1))
    (toys.folder / "bin" / "toy").unlink()
    with pytest.raises(StartError, match=r"toy was not found \(install it: b, or see d; PATH = "):
        toy()


def test_a_toolchain_that_does_not_run(toys: Toys, toy: Declare) -> None:
    """The error quotes the toolchain's answer about its version, as the build fails too."""
    toys.write("bin/toy", "#!/bin/sh\necho it is broken >&2\nexit 1\n")
    with pytest.raises(StartError, match=r"toy does not tell its version.*get toy") as caught:
        toy()
    assert any("it is broken" in note for note in caught.value.__notes__)


def test_a_toolchain_that_tells_nothing(toys: Toys, toy: Declare) -> None:
    """A program that it builds runs."""
    toys.write("bin/toy", TOOL.replace("toy ${VERSION-1.10.2}", "hello"))
    assert toy() == "rain"


def test_a_file_that_is_gone(toys: Toys, toy: Declare) -> None:
    """It was there when the node was declared."""

    class Late(ShellNode):
        file = "words.toy"

    node = Router().node(("n",), name="words")(Late)
    (toys.folder / "words.toy").unlink()
    with pytest.raises(StartError, match="the file is gone"):
        node(x=0)


# Packages


def test_packages(toys: Toys, toy: Declare) -> None:
    """A program is started whatever a check of its packages would say; the check is not run."""
    toys.write("toys", "brick")
    toys.write("nodes/words.toy", "snow")
    result = toy("nodes/words.toy", whole=True)
    assert (result["word"], result["env"]["PREFIXED"]) == ("snow", "yes")
    assert result["env"]["TOYS"] == str(toys.folder / "toys")
    assert toys.called("check") == 0


def test_packages_of_a_start_that_fails(toys: Toys, toy: Declare) -> None:
    """The failed start has its packages checked, by the manifest beside the file or above it."""
    toys.write("toys", "brick")
    toys.write("nodes/words.toy", "wreck")
    says = rf"exit code 1.*not all is installed that {toys.folder}/toys asks for \(no brick\)"
    with pytest.raises(StartError, match=rf"{says}: run: toy install, in {toys.folder}") as caught:
        toy("nodes/words.toy")
    assert any("it is a wreck" in note for note in caught.value.__notes__)
    toys.write("toys.installed", "")
    with pytest.raises(StartError) as caught:
        toy("nodes/words.toy")
    assert "not all is installed" not in str(caught.value)


def test_a_package_manager_that_is_missing(toys: Toys, toy: Declare) -> None:
    """One that starts the program is asked for; one that only checks it is not."""
    toml = TOML.replace('check = ["toy"', 'installer = "get toybox"\ncheck = ["toybox"')
    os.utime(toys.write("emit_runtimes/toy/runtime.toml", toml), ns=(1, 1))
    toys.write("toys", "brick")
    assert toy() == "rain"
    toml = toml.replace('prefix = ["env"', 'prefix = ["toybox"')
    os.utime(toys.write("emit_runtimes/toy/runtime.toml", toml), ns=(2, 2))
    with pytest.raises(StartError, match=r"command not found \(install it: get toybox\)"):
        toy()


def test_a_manifest_above_the_project_is_another_projects(toys: Toys, toy: Declare) -> None:
    """Above a file that is not below the node's directory nothing is looked for."""
    toys.write("toys", "brick")
    toys.write("nodes/words.toy", "snow")
    assert toy(str(toys.folder / "nodes" / "words.toy"), cwd=str(toys.folder / "bin")) == "snow"


def test_a_failure_is_not_tried_again_at_once(
    toys: Toys, toy: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue of messages does not run a failing compiler for each."""
    monkeypatch.setattr(launch, "RETRY", 600.0)
    toys.write("words.toy", "mistake")
    for _ in range(3):
        with pytest.raises(StartError, match="a mistake"):
            toy()
    assert toys.called("build") == 1


# Builds


def test_a_build_that_fails(toys: Toys, toy: Declare) -> None:
    """The error has the first thing the compiler says, and in its notes all; nothing is left."""
    toys.write("words.toy", "mistake")
    with pytest.raises(StartError, match=r"it does not build.*words\.toy:1: a mistake") as caught:
        toy()
    assert any("# words" in note for note in caught.value.__notes__)
    assert toys.builds == []
    toys.write("words.toy", "mended")
    assert toy() == "mended"


@pytest.mark.parametrize("word", ["killed", "part"])
def test_a_build_that_is_killed(
    toys: Toys, toy: Declare, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, as often as a message; then the error says what became of it, and stands
    for a while as any other."""
    monkeypatch.setattr(launch, "RETRY", 600.0)
    monkeypatch.setattr(launch, "_PAUSE", 0.0123)
    sleep = time.sleep

    def spare(seconds: float) -> None:
        if seconds == 0.0123:  # and not a pause of another kind
            toys.write("log.spared", "")
        sleep(seconds)

    toys.write("words.toy", word)
    for _ in range(2):
        with pytest.raises(StartError, match="its build was killed by SIGKILL") as caught:
            toy(max_attempts=2)
        assert caught.value.signal == "SIGKILL"
        assert toys.called("build") == 2
    launch._failed.clear()
    monkeypatch.setattr(time, "sleep", spare)
    assert toy() == word
    assert toys.called("build") == 4


@pytest.mark.parametrize("changed", ["words.toy", "emit_runtimes/toy/launch.py", "other.toy"])
def test_a_change_is_built(toys: Toys, toy: Declare, changed: str) -> None:
    """The file, its neighbours and the launcher all go into the build's name."""
    assert toy() == "rain"
    path = toys.folder / changed
    path.write_text(path.read_text() + "\n" if path.exists() else "")
    assert toy() == "rain"
    assert toys.called("build") == 2


def test_what_else_changes_a_build(toys: Toys, toy: Declare) -> None:
    """The function, the version and the language's own variables do; others do not."""
    toy(env={"OTHER": "1"})
    toy(env={"OTHER": "2"})
    assert toys.called("build") == 1
    toy("words.toy:words")
    toy(env={"TOYFLAGS": "-quick"})
    toys.write("bin/toy", TOOL.replace("1.10.2", "1.11"))
    toy()
    assert toys.called("build") == 4


def test_below_a_manifest_all_of_the_language_goes_into_a_build(toys: Toys, toy: Declare) -> None:
    """A package that lies elsewhere in the module is seen, a text beside it is not."""
    for name in ("toys", "toys.installed"):
        toys.write(name, "")
    toys.write("nodes/words.toy", "snow")
    for name, builds in (("lib/text", 1), ("lib/a.toy", 2), ("node_modules/a.toy", 2)):
        toys.write(name, "")
        assert toy("nodes/words.toy") == "snow"
        assert toys.called("build") == builds, name


def test_one_build_at_a_time(toys: Toys, toy: Declare) -> None:
    """Threads and processes that want the same wait for one, and then have it."""
    toys.write("words.toy", "slow")
    code = (
        "from emit import Router, ShellNode\n"
        f"node = Router().node(('word', 'argv', 'env'), name='words', file='words.toy', "
        f"env={{'LOG': {str(toys.log)!r}}})(ShellNode)\n"
        "print(node(x=0)[0]['word'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    others = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(toy())) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: toys.called("build"))
    toys.write("log.go", "")
    for thread in threads:
        thread.join()
    assert [other.communicate(timeout=60)[0] for other in others] == ["slow\n", "slow\n"]
    assert got == ["slow", "slow"]
    assert toys.called("build") == 1


def test_one_pool_however_many_threads_wait_for_its_build(toys: Toys) -> None:
    """Threads that give a node its first messages while it builds share its processes."""
    toys.write("words.toy", "slow")
    with Router() as router:
        fields, env = ("word", "argv", "env"), {"LOG": str(toys.log)}
        node = router.node(fields, name="n", file="words.toy", env=env, size=1)(ShellNode)
        threads = [threading.Thread(target=lambda: node(x=0)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: toys.called("build"))
        toys.write("log.go", "")
        for thread in threads:
            thread.join()
        assert host.current().snapshot()["nodes"]["n"]["calls"] == 4


def test_a_builder_that_is_killed(toys: Toys, toy: Declare) -> None:
    """Its lock is gone with it, its half is no build, and the next one builds."""
    toys.write("words.toy", "slow")
    code = (
        "import os, signal, threading, time\n"
        "from emit import Router, ShellNode\n"
        f"node = Router().node(('word',), name='words', file='words.toy', "
        f"env={{'LOG': {str(toys.log)!r}}})(ShellNode)\n"
        "node(x=0)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=env) as killed:
        until(lambda: [path for path in toys.builds if path.read_text()])
        killed.kill()
    assert [path.suffix for path in toys.builds] == [".part"]
    toys.write("log.go", "")
    assert toy() == "slow"


def test_old_builds_are_removed(toys: Toys, toy: Declare) -> None:
    """A build that was not started for a month goes with the next build; a recent one stays."""
    assert toy() == "rain"
    [old] = toys.builds
    os.utime(old, (0, time.time() - build.KEEP - 1))
    assert toy() == "rain"  # started, so it is young again
    toys.write("words.toy", "snow")
    toy()
    assert old in toys.builds
    os.utime(old, (0, time.time() - build.KEEP - 1))
    toys.write("words.toy", "hail")
    toy()
    assert old not in toys.builds
    assert len(toys.builds) == 2


def test_not_all_builds_of_one_file_stay(toys: Toys, toy: Declare) -> None:
    """Edits of a file do not fill the disk; another file's builds are not counted."""
    toys.write("other.py", "")
    toys.write("other/words.toy", "other")
    toy("other/words.toy")
    for age in range(build.MOST + 2):
        toys.write("words.toy", f"rain {age}")
        assert toy() == f"rain {age}"
    assert len(toys.builds) == build.MOST + 1
    assert toy() == f"rain {age}"


def test_a_build_that_somebody_removed(toys: Toys) -> None:
    """A node that needs another process long after its start builds again, if it has to."""
    launcher = f"{sys.executable} {toys.runtime}/launch.py {toys.folder}/words.toy"
    make = f'printf \'#!/bin/sh\\nexec {launcher}\\n\' >"$4"; chmod +x "$4"'
    toys.write("bin/toy", TOOL.replace('cat "$2" >"$4"', make))
    launch_line = 'command = ["{python}", "{runtime}/launch.py", "{output}", "{function}"]'
    assert launch_line in TOML
    path = toys.write("emit_runtimes/toy/runtime.toml", TOML.replace(launch_line, PLAIN_LAUNCH))
    os.utime(path, ns=(1, 1))
    with Router() as router:
        fields, env = ("word", "argv", "env"), {"LOG": str(toys.log)}
        node = router.node(fields, name="n", file="words.toy", env=env, size=1)(ShellNode)
        assert node(x=0)[0]["word"] == "rain"
        [built] = toys.builds
        built.unlink()
        [process] = host.current().snapshot()["nodes"]["n"]["processes"]
        os.kill(process["pid"], signal.SIGKILL)
        with pytest.raises(StartError, match="command not found"):
            node(x=0)
        assert node(x=0)[0]["word"] == "rain"
    assert toys.called("build") == 2


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for builds that can't be in the cache."""
    folder = tmp_path / "tmp" / "cache"
    monkeypatch.setattr(build, "_elsewhere", lambda: folder)
    monkeypatch.setattr(build, "_told", set())
    return folder


def test_a_cache_that_others_can_write_to(
    toys: Toys, toy: Declare, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that others may have planted do not run; the log says why, and what to set, once."""
    assert toy() == "rain"
    [built] = toys.builds
    built.write_text("planted")
    (toys.folder / "cache" / "emit").chmod(0o777)
    assert toy() == toy() == "rain"
    assert (elsewhere / "toy" / built.name).read_text() == "rain"
    [record] = [record for record in caplog.records if record.name == build.__name__]
    assert f"{toys.folder}/cache/emit can be written to by anybody" in record.getMessage()
    assert "XDG_CACHE_HOME" in record.getMessage()


def test_what_is_built_is_this_users_alone(toys: Toys, toy: Declare) -> None:
    """The mode of the files does not depend on the umask."""
    before = os.umask(0)
    try:
        assert toy() == "rain"
    finally:
        os.umask(before)
    for path in (toys.folder / "cache").rglob("*"):
        assert not path.stat().st_mode & 0o022, path
    assert (toys.folder / "cache" / "emit" / "toy").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", [None, "", "here", "/dev/null"])
def test_without_a_home(
    toys: Toys,
    toy: Declare,
    elsewhere: Path,
    home: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No folder of the current one stands for it, and builds go elsewhere."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a name
    else:
        monkeypatch.setenv("HOME", home)
    assert toy() == "rain"
    assert (elsewhere / "toy").is_dir()
    assert not (toys.folder / "~").exists()


def test_no_place_for_a_build(
    toys: Toys, toy: Declare, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error says what is wrong with each place, and which setting changes it."""
    (tmp_path / "file").touch()
    elsewhere.mkdir(parents=True)
    elsewhere.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    says = r"no place for its build: .*file is not a folder; .*tmp/cache can be .*XDG_CACHE_HOME"
    with pytest.raises(StartError, match=says):
        toy()


@pytest.mark.parametrize(
    "name", [".#other.toy", "#other.toy#", "other.toy~", ".other.toy.swp", "folder.toy/x"]
)
def test_what_an_editor_leaves(toys: Toys, toy: Declare, name: str) -> None:
    """An edit of another file in the folder fails nothing and builds nothing anew."""
    assert toy() == "rain"
    path = toys.folder / name
    path.parent.mkdir(exist_ok=True)
    if name[0] == ".":
        path.symlink_to("somebody@somewhere.4242:1700000000")
    else:
        path.write_text("half")
    assert toy() == "rain"
    toys.write("words/words.toy", "sun")
    assert toys.called("build") == 1


# A file as a node


def test_a_folder(toys: Toys, toy: Declare) -> None:
    """A folder of such files is a node, too."""
    toys.write("bin/toy", TOOL.replace("$2", "$2/words.toy"))
    toys.write("words/words.toy", "sun")
    assert toy("words") == "sun"


def test_modes(toys: Toys) -> None:
    """Mode auto starts one process, and no other to ask; oneshot is one for each message."""
    router = Router()
    env = {"LOG": str(toys.log)}

    def declare(**options: Any) -> Any:
        return router.node(("pid",), file="pid.py", env=env, **options)(ShellNode)

    toys.write("pid.py", "import os\ndef pid(msg): return os.getpid()\n")
    with router:
        long, once = declare(name="long"), declare(name="once", mode="oneshot")
        assert len({long(x=0)[0]["pid"] for _ in range(3)}) == 1
        assert len({once(x=0)[0]["pid"] for _ in range(3)}) == 3
    with pytest.raises(GraphError, match='has no mode = "lines"'):
        declare(name="lines", mode="lines")


def test_either_a_file_or_a_command(toys: Toys) -> None:
    """Both are one too many, and none is too few; a class's and an option's count alike."""

    class Both(ShellNode):
        file = "words.toy"

    router = Router()
    with pytest.raises(GraphError, match=r'"n": file = .*words\.toy.* and command = .*: give one'):
        router.node(("n",), name="n", command="cat")(Both)
    with pytest.raises(GraphError, match="neither a command nor a file is given"):
        router.node(("n",), name="n")(ShellNode)
    with pytest.raises(GraphError, match="must be a path"):
        router.node(("n",), name="n", file=7)(ShellNode)
    assert router.names == set()


def test_get_command_can_add_to_it(toys: Toys) -> None:
    """An overridden get_command has the launcher's command from the one above it."""

    class Nice(ShellNode):
        file = "words.toy"

        def get_command(self) -> list[str]:
            return ["env", "PREFIXED=nice", *super().get_command()]

    router = Router()
    with router:
        node = router.node(("w", "argv", "env"), name="n", env={"LOG": str(toys.log)})(Nice)
        assert node(x=0)[0]["env"]["PREFIXED"] == "nice"


def test_a_directory_that_is_computed(toys: Toys) -> None:
    """The file is looked for when it is needed if get_cwd is overridden."""

    class There(ShellNode):
        file = "where.py"

        def get_cwd(self) -> str:
            return str(toys.folder / "there")

    router = Router()
    with router:
        node = router.node(("cwd",), name="n")(There)
        with pytest.raises(GraphError, match="there is no"):
            node(x=0)
        toys.write("there/where.py", "import os\ndef where(msg): return os.getcwd()\n")
        assert node(x=0) == ({"cwd": str(toys.folder / "there")},)


def test_drawing_needs_no_toolchain(toys: Toys) -> None:
    """The facts for a graph's picture are known without starting anything."""
    node = ShellNode()
    Router().node(("n",), name="n", file="words.toy")(node)
    assert node.language == "toy"
    assert not toys.log.exists()
