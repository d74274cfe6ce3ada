"""What travels along the graph: :class:`Message`, and :class:`NoResult` for nothing."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emit.text import names_of

__all__ = ["Message", "NoResult"]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class Message:
    """
    A mapping of field names to values, which can also be read as attributes.

    Takes what ``dict()`` takes. A node's message also has ``_origin``, the name of the node
    it came from (``__entry_point`` for a call of the router). A field wins over a method of
    the same name, so a field may be called ``items``.

    Raises:
        AttributeError: By reading a field that is not there; the text lists what is there.

    Example:
        >>> msg = Message(word="rain", count=2)
        >>> msg.word, msg["count"]
        ('rain', 2)
        >>> msg.as_json()
        '{"word": "rain", "count": 2}'
    """

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        # The fields are the instance's own dictionary: reading one then costs a plain
        # attribute look-up (62 ns), where a __getattr__ costs 440.
        self.__dict__ = dict(*args, **kwargs)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Message:
        """A message around this very dictionary: quicker than the constructor, which copies it."""
        message = cls.__new__(cls)
        message.__dict__ = fields
        return message

    def __getattr__(self, name: str) -> Any:
        # Called only when the look-up has failed.
        there = names_of(self.__dict__) or "nothing"
        raise AttributeError(f'"{name}" is not included in this message (it has: {there})')

    if TYPE_CHECKING:  # so that a type checker lets fields be set

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def get(self, name: str, default: Any = None) -> Any:
        """
        The field, or *default* if there is none of that name.

        Example:
            >>> Message(word="rain").get("count", 1)
            1
        """
        return self.__dict__.get(name, default)

    def keys(self) -> Any:
        """The names of the fields, so that ``**message`` and ``dict(message)`` work."""
        return self.__dict__.keys()

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of its own: changing it leaves the message alone."""
        return dict(self.__dict__)

    def as_json(self) -> str:
        """
        The fields as one JSON object.

        Raises:
            TypeError: A value that JSON has no form for.
        """
        return json.dumps(self.__dict__)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Message):
            return bool(self.__dict__ == other.__dict__)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its fields can change

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_short.repr(value)}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    def __dir__(self) -> list[str]:
        return sorted(set(map(str, object.__dir__(self))))  # which has the fields too


class NoResult:
    """Return or yield this from a node to send nothing on."""
