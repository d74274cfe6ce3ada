"""The example with metrics: what it prints, and what its dashboard and alerts ask for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from emit.observe.counts import VARIABLE
from tests.hosts import ROOT
from tests.queues.notes import graph
from tests.queues.worker import celery_worker, eventually

EXAMPLE = ROOT / "examples" / "observe"

#: The words of PromQL that the example uses, beside names of series and labels.
WORDS = {
    *("sum", "rate", "increase", "deriv", "histogram_quantile", "label_values"),
    *("by", "and", "node", "le", "error", "outcome", "state", "cause", "queue", "carrier"),
}

SELECTOR = re.compile(r"\b(emit_\w+|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!=|!~|=)"([^"]*)"')

Samples = dict[str, list[dict[str, str]]]


def queries() -> Iterator[tuple[str, str]]:
    """Yield each query of the dashboard and of the alerts, with its title."""
    board = json.loads((EXAMPLE / "grafana" / "emit.json").read_text("utf-8"))
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for group in yaml.safe_load((EXAMPLE / "alerts.yml").read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


QUERIES = [*queries()]


@pytest.fixture(scope="module")
def samples(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """The labels of all samples, by name, after a worker has met every kind of trouble."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "metrics"))
        patch.setenv("EMIT_TEST_CARRIER", "celery")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "queues")]))
        with graph("counted", redis_server) as counted:
            counted.redis.flushall()
            with celery_worker(folder / "log", app="counted"):
                counted.router(count=2)
                counted.work.delay(n=13)  # fails
                counted.Program.delay(n=1)
                counted.Program.delay(n=1, how="die")
                counted.Missing.delay(n=1)  # waits
                return eventually(lambda: complete(scrape()))


def scrape() -> Samples:
    command = [sys.executable, "-m", "emit.cli", "metrics", "--once", "--app", "counted.router"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Prometheus itself makes this one, for each address that it asks.
    found: Samples = {"up": [{"job": "emit", "instance": "metrics:9464"}]}
    for family in text_string_to_metric_families(done.stdout):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def complete(found: Samples) -> Samples | None:
    """Return the samples, if the last facts of all troubles are told."""
    dead = {labels["node"] for labels in found.get("emit_messages_dead_total", ())}
    waits = "emit_messages_put_back_total" in found
    is_there = any(labels["state"] == "idle" for labels in found.get("emit_processes", ()))
    return found if {"counted.work", "counted.program"} <= dead and waits and is_there else None


@pytest.mark.requires("redis-server")
def test_every_query_finds_a_metric(samples: Samples) -> None:
    """Each selector of each query matches a series of a real worker, and so do its labels."""
    assert len(QUERIES) > 30
    for title, query in QUERIES:
        selectors = SELECTOR.findall(query)
        assert selectors, title
        for name, matchers in selectors:
            found = [labels for labels in samples.get(name, ()) if matches(labels, matchers)]
            assert found, f"{title}: nothing matches {name}{{{matchers}}}"
            for labels in re.findall(r"by \(([^)]*)\)", query):
                wanted = {label.strip() for label in labels.split(",")}
                assert wanted <= found[0].keys(), f"{title}: {name} has no {wanted}"


def matches(labels: dict[str, str], matchers: str) -> bool:
    for label, operator, value in MATCHER.findall(matchers):
        assert operator in ("=", "=~")
        value = value.replace("$node", ".*")
        if label not in labels:
            return False
        if operator == "=" and labels[label] != value:
            return False
        if operator == "=~" and not re.fullmatch(value, labels[label]):
            return False
    return True


def test_the_queries_have_no_other_names() -> None:
    """Each name is a series or a word of PromQL: any other would be a series that nobody knows."""
    for title, query in QUERIES:
        rest = SELECTOR.sub("", query)
        rest = re.sub(r"\[[^\]]*\]", "", rest)
        assert set(re.findall(r"[A-Za-z_]\w*", rest)) <= WORDS, title


@pytest.mark.requires("redis-server", "ruby")
def test_what_it_prints(redis: str) -> None:
    """The README shows what the example prints."""
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(EXAMPLE / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": commands, "REDIS_URL": redis, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    shown = (EXAMPLE / "README.md").read_text("utf-8")
    assert "".join(f"    {line}\n" for line in done.stdout.splitlines()) in shown


def test_the_compose_file() -> None:
    """Each file that it mounts is there, and the services share the folder of the counts."""
    compose: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text("utf-8"))
    mounted = [volume for one in compose["services"].values() for volume in one.get("volumes", ())]
    for volume in mounted:
        source = volume.partition(":")[0]
        assert source in compose["volumes"] or (EXAMPLE / source).exists(), source
    for service in ("worker", "feed", "metrics"):
        assert compose["services"][service]["volumes"] == ["emit:/run/emit"]
    (job,) = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["metrics:9464"]}]
    assert "0.0.0.0:9464" in compose["services"]["metrics"]["command"]
