"""The live view of ``emit top``: a table that refreshes itself, or one node in full."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emit.cli.figures import (
    HEAD,
    SORTS,
    Row,
    Snapshots,
    arrange,
    format_row,
    names,
    rows,
    snapshots,
    troubles,
)
from emit.cli.output import CommandError, plural
from emit.host import status
from emit.text import clean, one_line

if TYPE_CHECKING:
    from emit.observe.fleet import Report

#: Actions by the bytes of a key.
_KEYS = {"\x1b[A": "up", "\x1b[B": "down", "k": "up", "j": "down"}
_KEYS |= {"\r": "open", "\n": "open", "\x1b": "back", "\x7f": "back", "q": "quit", "s": "sort"}

_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)

_HELP = "q quit · s sort · ↑↓ choose · enter open a node · esc back"


@dataclass
class View:
    """
    The content of the view, and the choices made by keys.

    Attributes:
        sort: The column that sorts the rows.
        chosen: Number of the marked row.
        opened: The key of the row that is shown in full, or None.
        table: The rows.
        hosts: The snapshots of the hosts that answered.
        reports: Those of the workers of all machines; None: the hosts are on this one.
        trouble: Why there are no new figures; empty if there are.
        details: Details of the opened node, by host.
    """

    sort: str
    chosen: int = 0
    opened: tuple[str, str] | None = None
    table: list[Row] = field(default_factory=list)
    hosts: Snapshots = field(default_factory=dict)
    reports: Sequence[Report] | None = None
    trouble: str = ""
    details: dict[int, dict[str, Any]] = field(default_factory=dict)

    def press(self, key: str) -> bool:
        """Do the action of a key. Return False if it ends the view."""
        if key == "sort":
            names = list(SORTS)
            self.sort = names[(names.index(self.sort) + 1) % len(names)]
            self._arrange(self.table)
        elif key in ("up", "down"):
            step = 1 if key == "down" else -1
            self.chosen = max(0, min(self.chosen + step, len(self.table) - 1))
        elif key == "open" and self.table:
            self.opened = self.table[self.chosen].key
        elif key == "back":
            self.opened = None
        return key != "quit"

    def take(self, hosts: Snapshots, reports: Sequence[Report] | None = None) -> None:
        """Show new figures."""
        self.hosts, self.reports, self.trouble = hosts, reports, ""
        self._arrange(rows(hosts))

    def _arrange(self, table: list[Row]) -> None:
        """Sort these rows for display; the mark stays on its node."""
        marked = self.table[self.chosen].key if self.table else None
        self.table = arrange(table, self.sort)
        keys = [row.key for row in self.table]
        last = max(0, len(keys) - 1)
        self.chosen = keys.index(marked) if marked in keys else min(self.chosen, last)

    def render(self) -> RenderableType:
        of = plural(len(self.hosts), "host")
        if self.reports is not None:
            machines = {report.machine for report in self.reports}
            of = f"{plural(len(machines), 'machine')} · {plural(len(self.reports), 'worker')}"
        title = f"emit top · {of} · by {self.sort} · {_HELP}"
        parts = [Text(title, style="dim", overflow="ellipsis", no_wrap=True)]
        if self.trouble:
            parts.append(Text(f"these are old figures: {self.trouble}", style="red"))
        if self.opened is None:
            return Group(*parts, self._rows(), *self._workers())
        if self.reports is not None:
            return Group(*parts, self._by_host())
        return Group(*parts, self._details())

    def _rows(self) -> RenderableType:
        if not self.table:
            return Text("\nno node with a program of its own is at work")
        table = _table(HEAD)
        for number, (row, name) in enumerate(zip(self.table, names(self.table), strict=True)):
            # Text, because rich reads brackets in a string as markup.
            cells = map(Text, format_row(row, name))
            table.add_row(*cells, style=_style(row, number == self.chosen))
        return Group(table, *(Text(trouble, style="red") for trouble in troubles(self.table)))

    def _workers(self) -> Iterator[RenderableType]:
        """Yield a table of the workers, if they are known."""
        if self.reports is not None:
            from emit.cli import fleet

            table = _table(fleet.HEAD)
            for report in self.reports:
                table.add_row(*map(Text, fleet.format_worker(report)))
            yield Text()
            yield table if self.reports else Text("no worker has reported")

    def _by_host(self) -> RenderableType:
        """Show the opened node on each host that has it."""
        table = _table(HEAD)
        found = [row for row in self.table if row.key == self.opened]
        usual = next((version for row in found for version in row.versions), "")
        for host, snapshot in self.hosts.items():
            for row in rows({host: snapshot}):
                if row.key == self.opened:
                    cells = format_row(row, f"{host[0]} {host[1]}")
                    is_odd = set(row.versions) - {usual}
                    style = _style(row, chosen=False) or ("yellow" if is_odd else "")
                    table.add_row(*map(Text, cells), style=style)
        lines = [Text(trouble, style="red") for trouble in troubles(found)]
        name = self.opened[0] if self.opened is not None else ""
        return Group(Text(f"\n{one_line(name)}", style="bold"), table, *lines)

    def _details(self) -> RenderableType:
        name = self.opened[0] if self.opened is not None else ""
        lines = [Text(f"\n{one_line(name)}", style="bold")]
        for pid, details in self.details.items():
            for error in details["errors"]:
                at = time.strftime("%H:%M:%S", time.localtime(error["at"]))
                lines.append(Text(f"{at}  host {pid}  {clean(error['type'])}", style="red"))
                lines += [Text(f"  {line}") for line in _last(error["text"], 4)]
                lines += [Text(f"  │ {x}", style="dim") for x in _last(error["stderr_tail"], 3)]
            for process in details["stderr"]:
                lines.append(Text(f"stderr of process {process['pid']}, host {pid}", style="bold"))
                tail = _last(process["tail"], 8) or ["nothing"]
                lines += [Text(f"  │ {line}", style="dim") for line in tail]
        return Group(*lines) if len(lines) > 1 else Group(*lines, Text("  nothing to tell of"))


def show(sort: str, interval: float, read: Callable[[], Sequence[Report]] | None = None) -> None:
    """
    Show the view until the user quits.

    Args:
        sort: The column that sorts the rows at first.
        interval: Seconds between two looks.
        read: Reads the reports of the workers of all machines; None: ask the hosts of this one.
    """
    view = View(sort)
    _look(view, read)
    with _keys() as wait, Live(view.render(), screen=True, auto_refresh=False) as shown:
        due = time.monotonic() + min(interval, 0.2)  # rates need a second look; take it soon
        while True:
            key = wait(max(0.0, due - time.monotonic()))
            if key is None:
                _look(view, read)
                due = time.monotonic() + interval
            elif not view.press(key):
                return
            if read is None:
                view.details = _ask(view.opened, view.hosts)
            shown.update(view.render(), refresh=True)


def _look(view: View, read: Callable[[], Sequence[Report]] | None) -> None:
    if read is None:
        view.take(snapshots())
        return
    from emit.cli import fleet

    try:
        reports = read()
    except CommandError as error:
        if view.reports is None:  # the first look
            raise
        view.trouble = str(error)
    else:
        view.take(fleet.nodes_of(reports), reports)


def _ask(opened: tuple[str, str] | None, now: Snapshots) -> dict[int, dict[str, Any]]:
    """Return the details of a node, of each host that has it for this project."""
    if opened is None:
        return {}
    having = {
        pid for pid, snapshot in now.items() if opened in map(_key, snapshot["nodes"].values())
    }
    answers = status.ask_all({"node": opened[0]})
    return {
        pid: answer
        for pid, answer in answers
        if pid in having and isinstance(answer, dict) and {"errors", "stderr"} <= answer.keys()
    }


def _key(node: Mapping[str, Any]) -> tuple[str, str]:
    return node["node"], node["project"]


@contextmanager
def _keys() -> Iterator[Any]:
    """Provide a function that waits for one key, for a number of seconds at most."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    pressed: deque[str] = deque()

    def wait(seconds: float) -> str | None:
        if not pressed and select.select([descriptor], [], [], seconds)[0]:
            pressed.extend(split_keys(os.read(descriptor, 1024).decode(errors="replace")))
        return pressed.popleft() if pressed else None

    try:
        tty.setcbreak(descriptor)
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def split_keys(text: str) -> list[str]:
    """Map the bytes that a terminal sent to actions; an unknown key to ""."""
    return [_KEYS.get(key, "") for key in _KEY.findall(text)]


def _table(head: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, name in enumerate(head):
        if column < 2:  # these are shortened if there is no room
            table.add_column(name, no_wrap=True)
        else:
            table.add_column(name, no_wrap=True, justify="right", min_width=max(6, len(name)))
    return table


def _style(row: Row, chosen: bool) -> str:
    is_odd = row.queued > row.processes or len(row.versions) > 1
    colour = "red" if row.open or row.start_error else "yellow" if is_odd else ""
    return f"{colour} reverse".strip() if chosen else colour


def _last(text: str, count: int) -> list[str]:
    """Return the last lines of a node's text, without bytes that control the terminal."""
    return clean(text).strip().splitlines()[-count:]
