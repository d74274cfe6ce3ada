"""The release: `make dist`, and the workflow that publishes its files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import emit

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")


def test_all_packages_have_one_version() -> None:
    """A release is one tag, so Emit and its SDKs have the same version."""
    sdks = ROOT / "sdks"
    found = {
        "ruby": (sdks / "ruby" / "lib" / "emit" / "version.rb").read_text("utf-8"),
        "python": (sdks / "python" / "emit_sdk.py").read_text("utf-8"),
    }
    versions = {
        name: re.findall(r'^\s*(?:VERSION|__version__) = "(.+)"', text, re.MULTILINE)
        for name, text in found.items()
    }
    versions["node"] = [json.loads((sdks / "node" / "package.json").read_text("utf-8"))["version"]]
    assert versions == {name: [emit.__version__] for name in versions}


def test_the_workflow_takes_the_tag_of_the_version_only() -> None:
    """Its first step fails for another tag."""
    [check] = re.findall(r"run: (test .*GITHUB_REF_NAME.*)", WORKFLOW)
    for tag, code in ((f"v{emit.__version__}", 0), ("v0.0.1", 1)):
        done = subprocess.run(["bash", "-c", f"GITHUB_REF_NAME={tag}; {check}"], cwd=ROOT)
        assert done.returncode == code


def test_the_workflow_runs_targets_that_exist() -> None:
    """Everything that it publishes was built and tried by the Makefile."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    used = re.findall(r"run: make ([a-z-]+)", WORKFLOW)
    assert used == ["try-dist"]
    assert set(used) <= set(targets)
