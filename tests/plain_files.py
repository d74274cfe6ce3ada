"""The same plain files in every language, as their authors would write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emit.host.runtime import runtimes


@dataclass(frozen=True)
class Language:
    """
    Attributes:
        name: As in its runtime.toml.
        suffix: Of its files.
        tool: What scripts/tools.py calls its toolchain; empty: it is always here.
        function: A function NAME that emits the words of the field ``text``.
        reply: A function NAME that returns the text REPLY.
        fields: A function ``fields`` that takes ``first``, and ``second`` or "none", by name.
        prints: A file that prints at its loading, and a function ``prints`` that prints "now".
        fails: A function ``fails`` that fails, on line 2, with the text "too hot".
        broken: A file whose second line fails at its loading.
        wrong: A file that is no text of the language, from its second line on.
        sdk: A file that registers the nodes ``upper`` and ``size`` with the SDK.
    """

    name: str
    suffix: str
    tool: str
    function: str
    reply: str
    fields: str
    prints: str
    fails: str
    broken: str
    wrong: str
    sdk: str

    def write(self, path: Path, text: str) -> str:
        """Write a file, or what the language has for one; what ``file`` is to say."""
        file = path.with_suffix(self.suffix)
        file.write_text(text)
        return str(file)


PYTHON = Language(
    name="python",
    suffix=".py",
    tool="",
    function="def NAME(msg):\n    yield from msg.text.split()\n",
    reply='def NAME(msg):\n    return "REPLY"\n',
    fields='def fields(first, second="none"):\n    return first + second\n',
    prints="import os\nprint('load')\ndef prints():\n    print('now'); os.system('echo now')\n"
    "    return 'printed'\n",
    fails="def fails(msg):\n    raise ValueError('too hot')\n",
    broken="import os\nimport no_such_module\ndef broken(msg): return 1\n",
    wrong="import os\ndef wrong(:\n",
    sdk="from emit_sdk import node, serve\n@node\ndef upper(msg): return msg.text.upper()\n"
    "@node\ndef size(msg): return len(msg.text)\nserve()\n",
)

LANGUAGES = [PYTHON]


def missing() -> set[str]:
    """Languages that Emit comes with and this file does not have."""
    return set(runtimes()) - {language.name for language in LANGUAGES}
