"""Types in other languages for the messages and results of a graph's nodes. No I/O here."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Any

from emit.typed.schema import SAFE, Schema, alternatives
from emit.typed.shapes import pascal, shapes_of

_NULL = {"type": "null"}


def write_types(contract: Mapping[str, Any], language: str, command: str) -> str:
    """
    Return a file with the types of a contract's nodes.

    Args:
        contract: See :mod:`emit.typed.contract`.
        language: One of LANGUAGES.
        command: The command that writes the file again, for its first line.
    """
    writer = LANGUAGES[language]()
    for name, about, schema in shapes_of(contract):
        writer.add(name, about, schema)
    return writer.file(f"Written by: {command}")


class Writer:
    """Writes the types of one language. An object inside another one gets a type of its own."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.used: set[str] = set()

    def add(self, name: str, about: str, schema: Schema) -> str:
        """Add the type of an object, and return its name."""
        while name in self.used:
            name += "_"
        self.used.add(name)
        at = len(self.types)
        self.types.insert(at, "")  # before the types inside it, as a reader expects
        self.types[at] = self.record(name, about, schema)
        return name

    def inner(self, name: str, schema: Schema) -> str:
        """Return the type of a value, in which *name* is the name of a type inside it."""
        parts = list(alternatives(schema))
        if {} in parts:
            return self.anything
        texts = dict.fromkeys(self.single(name, part) for part in parts)
        return self.union(list(texts))

    def single(self, name: str, part: Schema) -> str:
        """Return the type of a schema with one type."""
        if "enum" in part:
            return self.values(part["enum"], part["type"])
        kind = part["type"]
        if kind == "array":
            if "prefixItems" in part:
                return self.tuple_of([self.inner(name, it) for it in part["prefixItems"]])
            return self.list_of(self.inner(name, part.get("items", {})))
        if kind == "object":
            if part.get("properties"):
                return self.add(name, "", part)
            return self.map_of(self.inner(name, part.get("additionalProperties", {})))
        form = part.get("format", "") if kind == "string" else ""
        return self.plain(form or kind, part)

    anything: str

    @abstractmethod
    def record(self, name: str, about: str, schema: Schema) -> str: ...

    @abstractmethod
    def plain(self, kind: str, part: Schema) -> str: ...

    @abstractmethod
    def union(self, parts: list[str]) -> str: ...

    @abstractmethod
    def values(self, values: Iterable[Any], kind: str) -> str: ...

    @abstractmethod
    def list_of(self, item: str) -> str: ...

    @abstractmethod
    def tuple_of(self, items: list[str]) -> str: ...

    @abstractmethod
    def map_of(self, item: str) -> str: ...

    @abstractmethod
    def file(self, about: str) -> str: ...


class TypeScript(Writer):
    anything = "unknown"

    def record(self, name: str, about: str, schema: Schema) -> str:
        lines = [f"/** {about} */"] if about else []
        lines.append(f"export interface {name} {{")
        for field, part in schema["properties"].items():
            mark = "" if field in schema["required"] else "?"
            shown = field if re.fullmatch(r"[A-Za-z_$][\w$]*", field) else json.dumps(field)
            lines.append(f"  {shown}{mark}: {self.inner(name + pascal(field), part)};")
        return "\n".join([*lines, "}"])

    def plain(self, kind: str, part: Schema) -> str:
        if kind == "integer":
            return "number | bigint" if part.get("maximum", 0) > SAFE else "number"
        names = {"date-time": "Date", "binary": "Uint8Array"}
        return names.get(kind, kind)

    def union(self, parts: list[str]) -> str:
        return " | ".join(parts)

    def values(self, values: Iterable[Any], kind: str) -> str:
        return " | ".join(json.dumps(value) for value in values)

    def list_of(self, item: str) -> str:
        return f"({item})[]" if "|" in item else f"{item}[]"

    def tuple_of(self, items: list[str]) -> str:
        return f"[{', '.join(items)}]"

    def map_of(self, item: str) -> str:
        return f"Record<string, {item}>"

    def file(self, about: str) -> str:
        return "\n\n".join([f"// {about}", *self.types]) + "\n"


class Go(Writer):
    anything = "any"

    def record(self, name: str, about: str, schema: Schema) -> str:
        rows = []
        for field, part in schema["properties"].items():
            kind = self.inner(name + pascal(field), part)
            is_optional = field not in schema["required"]
            if is_optional and kind[0] not in "*[m" and kind != "any":
                kind = f"*{kind}"
            tag = f"{field},omitempty" if is_optional else field
            rows.append((pascal(field), kind, f"`json:{json.dumps(tag, ensure_ascii=False)}`"))
        wide = [max((len(row[at]) for row in rows), default=0) for at in (0, 1)]
        fields = (f"\t{n:<{wide[0]}} {k:<{wide[1]}} {tag}" for n, k, tag in rows)
        comment = [f"// {name} is {about[0].lower()}{about[1:]}"] if about else []
        return "\n".join([*comment, f"type {name} struct {{", *fields, "}"])

    def plain(self, kind: str, part: Schema) -> str:
        if kind == "integer":
            return "uint64" if part.get("maximum", 0) > 2**63 - 1 else "int64"
        names = {"number": "float64", "boolean": "bool", "null": "any"}
        return {**names, "date-time": "time.Time", "binary": "[]byte"}.get(kind, kind)

    def union(self, parts: list[str]) -> str:
        if len(parts) == 1:
            return parts[0]
        others = [part for part in parts if part != "any"]
        if len(others) > 1 or not others:
            return "any"
        return others[0] if others[0][0] in "[m*" else f"*{others[0]}"  # nil is null

    def values(self, values: Iterable[Any], kind: str) -> str:
        return self.plain(kind, {}) if isinstance(kind, str) else "any"

    def list_of(self, item: str) -> str:
        return f"[]{item}"

    def tuple_of(self, items: list[str]) -> str:
        return f"[]{items[0]}" if len({*items}) == 1 else "[]any"

    def map_of(self, item: str) -> str:
        return f"map[string]{item}"

    def file(self, about: str) -> str:
        body = "\n\n".join(self.types)
        imports = 'import "time"\n\n' if "time.Time" in body else ""
        return f"// {about}\n\npackage nodes\n\n{imports}{body}\n"


class Ruby(Writer):
    """RBS. Its types have small letters."""

    anything = "untyped"

    def record(self, name: str, about: str, schema: Schema) -> str:
        comment = f"  # {about}\n" if about else ""
        if not all(re.fullmatch(r"[a-z_]\w*", field) for field in schema["properties"]):
            # A record's keys are names. No form of RBS for others is read by every version.
            return f"{comment}  type {snake(name)} = Hash[Symbol, untyped]"
        parts = []
        for field, part in schema["properties"].items():
            mark = "" if field in schema["required"] else "?"
            parts.append(f"    {mark}{field}: {self.inner(name + pascal(field), part)}")
        fields = ",\n".join(parts)
        return f"{comment}  type {snake(name)} = {{\n{fields}\n  }}"

    def add(self, name: str, about: str, schema: Schema) -> str:
        return snake(super().add(name, about, schema))

    def plain(self, kind: str, part: Schema) -> str:
        names = {"integer": "Integer", "number": "Float | Integer", "string": "String"}
        names |= {"boolean": "bool", "null": "nil", "date-time": "Time", "binary": "String"}
        return "Float" if part.get("format") == "double" else names[kind]

    def union(self, parts: list[str]) -> str:
        return " | ".join(parts)

    def values(self, values: Iterable[Any], kind: str) -> str:
        names = {None: "nil", True: "true", False: "false"}
        shown = (
            names.get(v) if v is None or isinstance(v, bool) else json.dumps(v) for v in values
        )
        return " | ".join(map(str, shown))

    def list_of(self, item: str) -> str:
        return f"Array[{item}]"

    def tuple_of(self, items: list[str]) -> str:
        return f"[{', '.join(items)}]"

    def map_of(self, item: str) -> str:
        return f"Hash[String, {item}]"

    def file(self, about: str) -> str:
        body = "\n\n".join(self.types)
        return f"# {about}\n\nmodule Nodes\n{body}\nend\n"


def snake(name: str) -> str:
    """
    Return a name of a type in small letters.

    Example:
        >>> snake("WordsResult")
        'words_result'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class Python(Writer):
    anything = "Any"

    def record(self, name: str, about: str, schema: Schema) -> str:
        rows = []
        for field, part in schema["properties"].items():
            kind = self.inner(name + pascal(field), part)
            rows.append((field, kind if field in schema["required"] else f"NotRequired[{kind}]"))
        is_class = all(field.isidentifier() and not iskeyword(field) for field, _ in rows)
        if not is_class:
            items = "".join(f"    {field!r}: {kind},\n" for field, kind in rows)
            comment = f"# {about}\n" if about else ""
            return f'{comment}{name} = TypedDict("{name}", {{\n{items}}})'
        text = f'    """{about}"""\n\n' if about else ""
        fields = "\n".join(f"    {field}: {kind}" for field, kind in rows)
        return f"class {name}(TypedDict):\n{text}{fields}"

    def plain(self, kind: str, part: Schema) -> str:
        names = {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}
        return {**names, "null": "None", "date-time": "datetime", "binary": "bytes"}[kind]

    def union(self, parts: list[str]) -> str:
        return " | ".join(parts)

    def values(self, values: Iterable[Any], kind: str) -> str:
        return f"Literal[{', '.join(map(repr, values))}]"

    def list_of(self, item: str) -> str:
        return f"list[{item}]"

    def tuple_of(self, items: list[str]) -> str:
        return f"tuple[{', '.join(items)}]"

    def map_of(self, item: str) -> str:
        return f"dict[str, {item}]"

    def file(self, about: str) -> str:
        types = list(reversed(self.types))  # a functional TypedDict needs its parts before it
        body = "\n\n\n".join(types)
        names = [n for n in ("Any", "Literal", "NotRequired") if re.search(rf"\b{n}\b", body)]
        imports = f"from typing import {', '.join([*names, 'TypedDict'])}\n"
        if re.search(r"\bdatetime\b", body):
            imports = f"from datetime import datetime\n{imports}"
        return f'"""{about}"""\n\nfrom __future__ import annotations\n\n{imports}\n\n{body}\n'


LANGUAGES: dict[str, type[Writer]] = {
    "ts": TypeScript,
    "go": Go,
    "ruby": Ruby,
    "python": Python,
}
