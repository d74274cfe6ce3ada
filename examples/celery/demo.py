"""
Count words through a real Celery worker, and check the result against plain Python.

    python demo.py             # with a broker that needs no server: files in a folder
    python demo.py redis://    # with Redis
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.transport import filesystem

from emit import CeleryRouter, Message, NoResult
from emit.celery import configure

FOLDER = Path(os.environ.get("DEMO_FOLDER") or tempfile.mkdtemp(prefix="emit-demo-"))
BROKER = sys.argv[1] if __name__ == "__main__" and sys.argv[1:] else os.environ.get("DEMO_BROKER")
FILES = {"data_folder_in": str(FOLDER), "data_folder_out": str(FOLDER), "polling_interval": 0.02}
FILES["control_folder"] = str(FOLDER / "control")


class WholeFiles(filesystem.Channel):
    """
    kombu's channel of files, but each file appears complete. With kombu's own, a worker may read a
    message before it is complete, and lose it.
    """

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        name = f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg"
        unfinished = FOLDER / f"{name}.part"
        unfinished.write_text(json.dumps(payload))
        unfinished.rename(FOLDER / name)


filesystem.Transport.Channel = WholeFiles
app = Celery("demo", broker=BROKER or "filesystem://")
if not BROKER:
    app.conf.broker_transport_options = FILES
configure(app)
router = CeleryRouter(celery_task=app.task)


@router.node(("words",), name="demo.read", entry_point=True)
def read(msg: Message) -> Iterator[list[str]]:
    """Emit the words of each line of a text."""
    for line in msg.text.splitlines():
        words = re.findall("[a-z]+", line.lower())
        if words:
            yield words


@router.node(("counts",), "demo.read", name="demo.count", batch=500)
def count(msg: Message) -> dict[str, int]:
    return dict(Counter(msg.words))


@router.node((), "demo.count", name="demo.add", batch=500, many=True)
def add(messages: list[Message]) -> type[NoResult]:
    """Add the counts of many lines as one line to a file. Each worker process has its own file."""
    total: Counter[str] = Counter()
    for msg in messages:
        total.update(msg.counts)
    with open(FOLDER / f"{os.getpid()}.counts", "a") as file:
        file.write(json.dumps([len(messages), total]) + "\n")
    return NoResult


def main() -> None:
    try:
        count_words()
    finally:
        shutil.rmtree(FOLDER)


def count_words() -> None:
    texts = [path.read_text("utf-8") for path in sorted(Path(os.__file__).parent.glob("[a-c]*.py"))]
    lines = [re.findall("[a-z]+", line.lower()) for text in texts for line in text.splitlines()]
    lines = [line for line in lines if line]
    began = time.monotonic()
    with worker():
        for text in texts:
            router(text=text)
        done, found = collected(len(lines))
    seconds = time.monotonic() - began
    expected = Counter(word for line in lines for word in line)
    for word, times in found.most_common(5):
        print(f"{times:8,}  {word}")
    print(
        f"{len(texts)} texts, {done:,} lines, {found.total():,} words in {seconds:.1f} s, ", end=""
    )
    print("by Redis" if BROKER else "by files")
    if found != expected:
        sys.exit(f"WRONG: {len(found - expected) + len(expected - found)} words are miscounted")
    print("Checked against plain Python: every word is there.")


class worker:
    """A context manager that runs a worker with two processes."""

    def __enter__(self) -> None:
        env = {**os.environ, "DEMO_FOLDER": str(FOLDER), "DEMO_BROKER": BROKER or ""}
        command = [sys.executable, "-m", "celery", "-A", "demo", "worker", "-c", "2", "-l", "ERROR"]
        with open(FOLDER / "log", "w") as log:
            self.process = subprocess.Popen(
                command, cwd=Path(__file__).parent, env=env, stdout=log, stderr=log
            )

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


def collected(lines: int, patience: float = 120.0) -> tuple[int, Counter[str]]:
    """Wait until the worker has counted all lines, for two minutes at most. Return the counts."""
    end = time.monotonic() + patience
    while True:
        rows = [
            json.loads(row)
            for path in FOLDER.glob("*.counts")
            for row in path.read_text().splitlines()
            if row.endswith("]")
        ]
        done = sum(number for number, _ in rows)
        if done >= lines or time.monotonic() > end:
            return done, sum((Counter(counts) for _, counts in rows), Counter())
        time.sleep(0.05)


if __name__ == "__main__":
    main()
