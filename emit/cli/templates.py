"""The beginning of a node in each language, from its ``template/``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emit.cli.errors import CommandError
from emit.host.language.runtime import Runtime


def node_files(
    language: Runtime, name: str, folder: Path, *, sdk: bool, test: bool
) -> Iterator[tuple[Path, str]]:
    """
    The files of a new node, and what is in them; first the node, then its test.

    Raises:
        CommandError: The language has no template for it.
    """
    template = language.folder / "template"
    folder = folder / name if language.folders else folder
    source = _find(template, "sdk" if sdk else "plain")
    yield folder / f"{name}{source.suffix}", _filled(source, name)
    if test:
        yield (
            folder / language.test_file.replace("{name}", name),
            _filled(_find(template, "test"), name),
        )


def _find(template: Path, kind: str) -> Path:
    found = sorted(template.glob(f"{kind}.*"))
    if not found:
        raise CommandError(f"there is no template {kind}.* in {template}")
    return found[0]


def _filled(source: Path, name: str) -> str:
    return source.read_text("utf-8").replace("{{name}}", name)
