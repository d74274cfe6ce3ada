"""The beginning of a node in each language, from its ``template/``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emit.cli.errors import CommandError
from emit.host.language.runtime import Runtime


def forms(languages: dict[str, Runtime]) -> dict[str, tuple[Runtime, str]]:
    """All languages and their dialects by name, each with the suffix of its files; "" is any."""
    found = {name: (language, "") for name, language in languages.items()}
    for language in languages.values():
        for name, suffix in language.dialects.items():
            found.setdefault(name, (language, suffix))
    return found


def node_files(
    language: Runtime, name: str, folder: Path, *, sdk: bool, test: bool, suffix: str = ""
) -> Iterator[tuple[Path, str]]:
    """
    Yield the files of a new node, and what is in them; first the node, then its test.

    Args:
        language: Its language, which has the templates.
        name: The node's name.
        folder: Where it goes.
        sdk: Begin with the SDK.
        test: Add a test.
        suffix: That of a dialect of the language; "": of the language itself.

    Raises:
        CommandError: The language has no template for it, or says nothing of tests.
    """
    template = language.folder / "template"
    folder = folder / name if language.folders else folder
    node = _find(template, "sdk" if sdk else "plain", language, suffix)
    yield folder / f"{name}{node.suffix}", _filled(node, name)
    if test:
        if not (language.test_file and language.test):
            raise CommandError(
                f"no test can be written, as {language.folder / 'runtime.toml'} has no "
                f"test.command or no test.test_file; add both, or leave --test out"
            )
        source = _find(template, "test", language, suffix)
        path = Path(language.test_file.replace("{name}", name))
        yield folder / (path.with_suffix(suffix) if suffix else path), _filled(source, name)


def other_files(language: Runtime, dialect: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what a dialect wants beside a node, and one is enough of: settings of its tools."""
    template = language.folder / "template" / dialect
    if dialect in language.dialects and template.is_dir():
        for source in sorted(template.iterdir()):
            yield folder / source.name, source.read_text("utf-8")


def _find(template: Path, kind: str, language: Runtime, suffix: str) -> Path:
    others = () if suffix else tuple(language.dialects.values())
    found = [x for x in sorted(template.glob(f"{kind}{suffix or '.*'}")) if x.suffix not in others]
    if not found:
        raise CommandError(
            f"there is no template {kind}{suffix or '.*'} in {template}; write one, with "
            f"{{{{name}}}} for the node's name"
        )
    return found[0]


def _filled(source: Path, name: str) -> str:
    return source.read_text("utf-8").replace("{{name}}", name)
