from __future__ import annotations

import os
from typing import Any

import pytest

from emit.host.system.program import DEFAULT, environment
from emit.host.system.spawn import Program, start

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary",
    "DATABASE_URL": "postgres://u:canary@h/d",
    "BUNDLE_GEMS__CONTRIBSYS__COM": "user:canary",
    "GEM_HOST_API_KEY": "canary",
    "HTTPS_PROXY": "http://u:canary@proxy",
    "GOPROXY": "https://u:canary@proxy",
    "CELERY_BROKER_URL": "redis://:canary@h",
    "EMIT_REDIS": "redis://:canary@h",
    "NPM_TOKEN": "canary",
    "MISE_GITHUB_TOKEN": "canary",
}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The host's environment, emptied but for PATH."""
    for name in set(os.environ) - {"PATH"}:
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_secret_of_the_host_reaches_no_child(host: pytest.MonkeyPatch) -> None:
    """A real child sees no secret of a host that is full of them."""
    for name, value in SECRETS.items():
        host.setenv(name, value)
    child = start(Program("canary", ("env",), environment({})))
    assert child.wait(60.0)
    seen = os.read(child.stdout, 65536)
    child.close()
    assert b"PATH=" in seen
    assert b"canary" not in seen


def test_paths_and_locale_pass(host: pytest.MonkeyPatch) -> None:
    """Variables that a program needs to find its parts pass unchanged."""
    given = {"GEM_HOME": "/g", "LC_TIME": "de_DE.UTF-8", "TZ": "UTC", "NODE_PATH": "/n"}
    given |= {"ASDF_NODEJS_VERSION": "22.1.0", "MISE_RUBY_VERSION": "3.4", "GOTOOLCHAIN": "local"}
    for name, value in given.items():
        host.setenv(name, value)
    assert given.items() <= environment({}).items()


def test_more_can_pass(host: pytest.MonkeyPatch) -> None:
    """A name or pattern added to the list passes."""
    host.setenv("DATABASE_URL", "x")
    host.setenv("APP_MODE", "y")
    env = environment({}, passing=(*DEFAULT, "DATABASE_URL", "APP_*"))
    assert (env["DATABASE_URL"], env["APP_MODE"]) == ("x", "y")


def test_extra_wins(host: pytest.MonkeyPatch) -> None:
    """The author's variables win over the host's and over those that are always set."""
    host.setenv("HOME", "/host")
    extra = {"HOME": "/node", "PYTHONUNBUFFERED": "", "LANG": "C"}
    assert extra.items() <= environment(extra).items()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"LANG": "C.UTF-8"}),
        ({"LANG": "C"}, {"LANG": "C.UTF-8"}),
        ({"LANG": "de_DE.ISO-8859-1"}, {"LANG": "C.UTF-8"}),
        ({"LANG": "de_DE.utf8"}, {"LANG": "de_DE.utf8"}),
        ({"LANG": "de_DE.UTF-8@euro"}, {"LANG": "de_DE.UTF-8@euro"}),
        ({"LC_ALL": "C"}, {"LANG": "C.UTF-8"}),
        ({"LC_ALL": "fr_FR.UTF-8"}, {"LANG": "C.UTF-8", "LC_ALL": "fr_FR.UTF-8"}),
        ({"LC_CTYPE": "POSIX", "LANG": "en_US.UTF-8"}, {"LANG": "en_US.UTF-8"}),
    ],
)
def test_the_locale_is_always_utf8(
    host: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    """No host's locale makes a node read ASCII."""
    for name, value in given.items():
        host.setenv(name, value)
    env = environment({})
    assert expected == {n: v for n, v in env.items() if n == "LANG" or n.startswith("LC_")}


@pytest.mark.parametrize("passing", ["HOME", [5]])
def test_names_that_pass_are_a_list(passing: Any) -> None:
    """A string would be a list of its letters, and pass nothing."""
    with pytest.raises(ValueError, match="pass_env must be a list of names"):
        environment({}, passing)


@pytest.mark.parametrize(
    "extra", [{"": "canary"}, {"A=B": "canary"}, {"A\0": "canary"}, {"A": "canary\0"}, {"A": 1}]
)
def test_what_no_environment_can_hold_is_refused(extra: dict[str, str]) -> None:
    """The error names the variable and not its value."""
    with pytest.raises(ValueError, match="environment variable") as error:
        environment(extra)
    assert "canary" not in str(error.value)
