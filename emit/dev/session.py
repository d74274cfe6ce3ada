"""
A session of ``emit dev``: watch the files below the current folder, and act on each edit.

* An edit of a program's file: its hosts are asked to reload, as by ``emit reload``.
* An edit of any other Python file: the router is loaded in a process of its own. If that fails, the
  error is told, and the command runs on. Otherwise it is stopped gracefully, and started again.
* A sample message is run again after either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from watchfiles import watch

from emit.dev.lines import Lines, source_line
from emit.dev.service import Service
from emit.host.language.runtime import runtimes
from emit.host.place import project
from emit.reload import Asked, ask_hosts

__all__ = ["Session"]

#: Milliseconds in which more edits may follow one, as of an editor that saves in two steps; and
#: between two looks.
_DEBOUNCE, _STEP = 50, 20

#: Milliseconds between two looks at the command, if nothing is edited.
_LOOK = 250


class Session:
    """
    Runs services, and acts on edits.

    Args:
        services: The command or sample, and what else runs beside it.
        lines: Prints all output.
        router: The dotted path of the router; None: a sample of a single file.
        is_sample: Run the services again after each edit.
    """

    def __init__(
        self, services: Sequence[Service], lines: Lines, router: str | None, *, is_sample: bool
    ) -> None:
        self._services = services
        self._lines = lines
        self._router = router
        self._is_sample = is_sample
        self._folder = Path.cwd().resolve()
        self._files: dict[str, str] = {}
        self._told: set[str] = set()  # errors that are shown already
        self._ended: set[str] = set()  # services whose end is told
        known = list(runtimes().values())
        self._suffixes = tuple(suffix for runtime in known for suffix in runtime.suffixes)
        names = (name for r in known for name in (r.manifest, *r.managers) if name)
        self._names = frozenset(names)

    def run(self) -> None:
        """Work until KeyboardInterrupt."""
        is_loaded = self._load()
        changes = watch(
            self._folder,
            *self._outside(),
            debounce=_DEBOUNCE,
            step=_STEP,
            rust_timeout=_LOOK,
            yield_on_timeout=True,
        )
        if is_loaded:
            self._start()
        for found in changes:
            if found:
                self.act([Path(name) for _, name in found])
            self._look()

    def _outside(self) -> list[Path]:
        """Return the folders of programs that are not below the current one."""
        paths = (Path(name) for name in self._files)
        parents = {path if path.is_dir() else path.parent for path in paths}
        return sorted(path for path in parents if not path.is_relative_to(self._folder))

    def _start(self) -> None:
        self._ended.clear()
        for service in self._services:
            service.start()

    def _look(self) -> None:
        """Tell the end of a service that has ended by itself. An edit starts it again."""
        for service in self._services:
            code = service.code
            if code is not None and service.name not in self._ended:
                self._ended.add(service.name)
                service.forget()
                if not self._is_sample:
                    text = f"has ended, exit code {code}; an edit starts it again"
                    self._lines.say(service.name, text, "31" if code else "2")

    # -- edits -----------------------------------------------------------------------------

    def act(self, paths: Collection[Path]) -> None:
        """Act on the edit of some files."""
        edited = [path for path in paths if self._matters(path)]
        if not edited:
            return
        is_python = any(self._is_ours(path) for path in edited)
        if self._is_sample or is_python or not all(s.is_running for s in self._services):
            self._again(edited)
        else:
            self._reload()

    def _matters(self, path: Path) -> bool:
        is_code = path.name.endswith(self._suffixes) or path.name in self._names
        return is_code or str(path) in self._files

    def _is_ours(self, path: Path) -> bool:
        """Return True if the Python side has a file: it is Python, and no program."""
        programs = map(Path, self._files)
        is_program = any(path == each or each in path.parents for each in programs)
        return path.suffix == ".py" and not is_program

    def _again(self, edited: Iterable[Path]) -> None:
        """Stop the services, and start them with the present code, if it can be loaded."""
        if not self._load():
            return
        began = time.monotonic()
        was_running = any(service.is_running for service in self._services)
        names = ", ".join(sorted({path.name for path in edited}))
        for service in self._services:
            service.stop()
        took = f", {time.monotonic() - began:.2f} s after the edit" if was_running else ""
        self._lines.say("dev", f"{names}: started again{took}", "2")
        self._start()

    def _load(self) -> bool:
        """Load the router in another process, and learn the files of its programs."""
        if self._router is None:
            return True
        command = [sys.executable, "-m", "emit.dev.describe", self._router]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            self._tell_once("dev", done.stderr.strip().removeprefix("emit dev: "))
            return False
        self._files = json.loads(done.stdout.splitlines()[-1])
        self._told = {text for text in self._told if not text.startswith("dev\0")}
        return True

    def _reload(self) -> None:
        """Have all hosts of the project take the present version of each program."""
        began = time.monotonic()
        for asked in ask_hosts(None, project()):
            if not isinstance(asked, Asked):
                continue
            for each in asked.swapped or ():
                self._tell_swap(each, time.monotonic() - began)

    def _tell_swap(self, swapped: dict[str, Any], seconds: float) -> None:
        name = ", ".join(swapped["nodes"])
        if swapped["error"]:
            self._tell_once(name, swapped["error"]["text"])
            return
        self._told = {text for text in self._told if not text.startswith(f"{name}\0")}
        if swapped["processes"]:
            text = f"version {swapped['version'][:7]} has taken over in {seconds:.2f} s"
            self._lines.say(name, text, "32")

    def _tell_once(self, name: str, text: str) -> None:
        """Print an error with the author's line, unless it is the one that was printed before."""
        key = f"{name}\0{text}"
        if key in self._told:
            return
        self._told.add(key)
        self._lines.say(name, text, "31")
        if line := source_line(text, self._folder):
            self._lines.say(name, f"    {line}", "1")
        if any(service.is_running for service in self._services):
            self._lines.say(name, "the last good version goes on", "2")
