"""The example with metrics: what it prints, and what its dashboard and alerts ask for."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from emit.observe.counts import VARIABLE
from tests.hosts import ROOT
from tests.queues.notes import graph
from tests.queues.worker import celery_worker, eventually

EXAMPLE = ROOT / "examples" / "observe"


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

#: What Grafana puts in the place of its variables. Rates need two scrapes in that time.
VARIABLES = {"$__rate_interval": "1m", "$node": ".*"}


class Prometheus:
    """
    A server that scrapes a real ``emit metrics``, with the configuration of the example.

    Args:
        url: Where it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **arguments: str) -> Any:
        """Return the data of its answer. An error of PromQL is an exception."""
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(arguments)}") as answer:
            return json.load(answer)["data"]

    def series(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series that a query results in."""
        found = self.ask("query", query=query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def answers(self, query: str) -> list[dict[str, str]]:
        """Return the labels of each series with a number."""
        if values := re.fullmatch(r"label_values\((.+), (\w+)\)", query):
            found = self.ask(f"label/{values[2]}/values", **{"match[]": values[1]})
            return [{values[2]: value} for value in found]
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        return [labels for labels, value in self.series(query) if not math.isnan(value)]


@pytest.fixture(scope="module")
def prometheus(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It watches a worker meet every kind of trouble, twice: a rate needs a change."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv(VARIABLE, str(folder / "metrics"))
        patch.setenv("EMIT_TEST_CARRIER", "celery")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "queues")]))
        counted = stack.enter_context(graph("counted", redis_server))
        counted.redis.flushall()
        stack.enter_context(celery_worker(folder / "log", app="counted"))
        server = Prometheus(stack.enter_context(scraping(folder)))
        for times in (1, 2):
            counted.router(count=2)
            counted.work.delay(n=13)  # fails
            counted.Program.delay(n=1)
            counted.Program.delay(n=1, how="die")
            counted.Missing.delay(n=1)  # waits
            dead = 'sum(emit_messages_dead_total{node=~"counted.work|counted.program"})'
            wanted = [f"{dead} >= {2 * times}", "sum(emit_messages_put_back_total) > 0"]
            eventually(lambda wanted=wanted: all(map(server.series, wanted)))
        yield server


@contextmanager
def scraping(folder: Path) -> Iterator[str]:
    """Run ``emit metrics`` and Prometheus. Yield the address of the latter."""
    settings = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text("utf-8"))
    (job,) = settings["scrape_configs"]
    command = [sys.executable, "-m", "emit.cli", "metrics", "--bind", "127.0.0.1:0"]
    with listening([*command, "--app", "counted.router"], r"http://([^/]+)/") as address:
        job["static_configs"] = [{"targets": [address]}]
        settings["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
        settings["rule_files"] = [str(EXAMPLE / "alerts.yml")]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        options = [f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"]
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", *options]
        with listening(command, r'"Listening on" address=(\S+)') as address:
            yield f"http://{address}"


@contextmanager
def listening(command: list[str], pattern: str) -> Iterator[str]:
    """Run a server until the end of the block. Yield what *pattern* finds in its stderr."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = next((x for line in server.stderr if (x := re.search(pattern, line))), None)
        rest = threading.Thread(target=server.stderr.read)  # a full pipe would stop the server
        rest.start()
        try:
            assert found is not None, command
            yield found[1]
        finally:
            server.terminate()
            rest.join()


#: A comparison at the end of a part of an alert, which leaves out series that are all right.
LIMIT = re.compile(r" (?:[<>]=?|==|!=) [\d.]+$")


@pytest.mark.requires("redis-server", "prometheus")
def test_every_query_finds_a_series(prometheus: Prometheus) -> None:
    """Each query of the dashboard, and each condition of an alert, without its limit."""
    assert len(QUERIES) > 30
    for title, query in QUERIES:
        for part in query.split(" and "):
            shown = LIMIT.sub("", part.strip())
            labels, *_ = eventually(lambda: prometheus.answers(shown), what=f"{title}: {shown}")  # noqa: B023
            for by in re.findall(r"by \(([^)]*)\)", shown):
                wanted = {label.strip() for label in by.split(",")} - {"le"}
                assert wanted <= labels.keys(), f"{title}: a series has only {labels}"


@pytest.mark.requires("redis-server", "prometheus")
def test_alerts_in_prometheus(prometheus: Prometheus) -> None:
    """It has evaluated each rule without an error. Dead letters are an alert at once."""
    alert = "EmitDeadLetters"
    eventually(lambda: prometheus.series(f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))
    (group,) = prometheus.ask("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    assert len(group["rules"]) == 9


@pytest.mark.requires("prometheus")
def test_when_alerts_fire() -> None:
    """Each alert of the example fires for what it is about, and for nothing else: by promtool."""
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=EXAMPLE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    rules = yaml.safe_load((EXAMPLE / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    tests = yaml.safe_load((EXAMPLE / "alerts_test.yml").read_text("utf-8"))["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules}


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
    """
    It fits the schema of compose files. Each file that it mounts is there, and the services share
    the folder of the counts.
    """
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=EXAMPLE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
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
