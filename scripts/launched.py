"""The files of tests/conformance/README.md, "The files of a launcher", in three languages."""

from __future__ import annotations

from pathlib import Path

#: Suffix, and the text of each file, by language.
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "python": (
        ".py",
        {
            "words": "def words(msg):\n    yield from msg.text.split()\n",
            "several": "def first(msg): return 'first'\ndef second(msg): return 'second'\n",
            "prints": "print('a print', end='')\ndef prints(msg):\n    return 'printed'\n",
            "syntax": "def syntax(msg:\n",
            "raises": "raise ValueError('out of order')\n",
            "missing": "import emit_no_such_library\ndef missing(msg):\n    return 1\n",
            "nothing": "NUMBER = 1\n",
        },
    ),
    "ruby": (
        ".rb",
        {
            "words": "def words(msg, out) = msg[:text].split.each { |word| out << word }\n",
            "several": "def first(_msg) = 'first'\ndef second(_msg) = 'second'\n",
            "prints": "print 'a print'\ndef prints(_msg) = 'printed'\n",
            "syntax": "def syntax(msg\n",
            "raises": "raise 'out of order'\n",
            "missing": "require 'emit_no_such_library'\ndef missing(_msg) = 1\n",
            "nothing": "NUMBER = 1\n",
        },
    ),
    "node": (
        ".mjs",
        {
            "words": "export function* words({ text }) {\n  yield* text.split(' ');\n}\n",
            "several": "export const first = () => 'first', second = () => 'second';\n",
            "prints": "process.stdout.write('a print');\nexport const prints = () => 'printed';\n",
            "syntax": "export default function (\n",
            "raises": "throw new Error('out of order');\n",
            "missing": "import 'emit_no_such_library';\nexport const missing = () => 1;\n",
            "nothing": "export const number = 1;\n",
        },
    ),
}


def write(language: str, folder: Path) -> None:
    """Write the files of a language into a folder."""
    suffix, files = FILES[language]
    for name, text in files.items():
        (folder / f"{name}{suffix}").write_text(text, "utf-8")
