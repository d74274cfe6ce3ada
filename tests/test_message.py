"""Message and NoResult."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from emit import Message, Router
from emit.message import NoResult


class Shouting(Message):
    """A message class with a constructor, a property and an attribute that is not a field."""

    __slots__ = ("made_by",)
    made_by: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made_by = "its own constructor"

    @property
    def loud(self) -> str:
        return str(self.word).upper()


def test_fields_are_attributes_and_items() -> None:
    """A field is read as an attribute or as an item."""
    msg = Message({"word": "rain"}, count=2)
    assert (msg.word, msg["word"], msg.count, msg["count"]) == ("rain", "rain", 2, 2)


def test_takes_what_dict_takes() -> None:
    """A mapping, pairs, another message or keywords make the same message; the input is copied."""
    source = {"a": 1}
    assert Message(source) == Message([("a", 1)]) == Message(Message(a=1)) == Message(a=1)
    Message(source).a = 2
    assert source == {"a": 1}


def test_is_a_mapping_to_python() -> None:
    """``dict()``, ``**``, ``in``, ``len`` and iteration see the fields."""
    msg = Message(a=1, b=2)
    assert dict(msg) == dict(**msg) == {"a": 1, "b": 2}
    assert (list(msg), len(msg), "a" in msg, "c" in msg) == (["a", "b"], 2, True, False)


def test_a_missing_attribute_lists_what_there_is() -> None:
    """Reading a missing field is an AttributeError that names it and lists the others."""
    with pytest.raises(AttributeError) as caught:
        _ = Message(word="rain", count=2).wrd
    assert str(caught.value) == '"wrd" is not included in this message (it has: word, count)'
    with pytest.raises(AttributeError, match="it has: nothing"):
        _ = Message().word
    with pytest.raises(AttributeError, match=r"it has: word, 1 other\)"):
        _ = Message({"word": "rain", "4111-1111\n": 2}).wrd  # what may be data is not told


def test_a_missing_item_is_a_key_error() -> None:
    """Reading a missing field as an item is a KeyError, and hasattr and getattr work."""
    msg = Message(word="rain")
    with pytest.raises(KeyError):
        msg["wrd"]
    assert not hasattr(msg, "wrd")
    assert getattr(msg, "wrd", "none") == "none"


def test_get_has_a_default() -> None:
    """An optional field is read as of a dict, in process as in a file."""
    message = Message(word="rain", get="a field")
    assert Message(word="rain").get("word") == "rain"
    assert Message(word="rain").get("count") is None
    assert Message(word="rain").get("count", 1) == 1
    assert message.get == "a field"


def test_as_dict_is_a_copy() -> None:
    """``as_dict`` gives a dictionary whose change leaves the message alone."""
    msg = Message(word="rain")
    taken = msg.as_dict()
    taken["word"] = "sun"
    assert type(taken) is dict
    assert msg.word == "rain"


def test_as_json_is_text() -> None:
    """``as_json`` gives one JSON object as a str; a value JSON has no form for is a TypeError."""
    msg = Message(word="Käse", counts=[1, None])
    assert isinstance(msg.as_json(), str)
    assert json.loads(msg.as_json()) == {"word": "Käse", "counts": [1, None]}
    with pytest.raises(TypeError):
        Message(word=object()).as_json()


def test_equality() -> None:
    """Messages are equal when their fields are; never to a dictionary; they can't be hashed."""
    assert Message(a=1) == Message(a=1)
    assert Message(a=1) != Message(a=2)
    assert Message(a=1) != {"a": 1}
    with pytest.raises(TypeError, match="unhashable"):
        hash(Message(a=1))


def test_repr_shows_fields_and_cuts_long_values() -> None:
    """The repr names the class and the fields and stays short for a long value."""
    assert repr(Message(word="rain", count=2)) == "Message(word='rain', count=2)"
    assert repr(Shouting(word="rain")) == "Shouting(word='rain')"
    assert len(repr(Message(text="x" * 100_000))) < 200


def test_dir_lists_fields_and_methods() -> None:
    """``dir`` lists the fields beside the methods, also where a field's name is no string."""
    assert {"word", "as_dict", "as_json"} <= set(dir(Message(word=1)))
    assert "1" in dir(Message({1: 2}))


def test_a_field_may_have_the_name_of_a_method() -> None:
    """A field wins over a method of its name, and the rest of the message still works."""
    msg = Message(items=[1], as_dict="shadow", self="me", args=1)
    values: list[Any] = [msg.items, msg.as_dict, msg.self, msg.args]
    assert values == [[1], "shadow", "me", 1]
    assert dict(msg)["as_dict"] == "shadow"
    assert json.loads(msg.as_json())["items"] == [1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol: int) -> None:
    """A message pickles with every protocol, its fields and class kept."""
    for msg in (Message(word="rain", nested={"a": [1]}), Message(), Message(items=1, keys=2)):
        assert pickle.loads(pickle.dumps(msg, protocol)) == msg


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_subclass_pickles(protocol: int) -> None:
    """A subclass pickles with what it keeps beside the fields."""
    again = pickle.loads(pickle.dumps(Shouting(word="rain"), protocol))
    assert type(again) is Shouting
    assert (again.word, again.made_by) == ("rain", "its own constructor")


def test_copies() -> None:
    """A shallow copy has its own fields and shares values; a deep copy shares nothing."""
    msg = Message(words=["rain"])
    shallow, deep = copy.copy(msg), copy.deepcopy(msg)
    shallow.count = 1
    deep.words.append("sun")
    assert msg == Message(words=["rain"])
    assert shallow.words is msg.words


def test_matches_by_attribute() -> None:
    """A message can be taken apart by a match statement."""
    match Message(word="rain"):
        case Message(word=str(word)):
            assert word == "rain"
        case _:
            pytest.fail("no match")


def test_a_custom_message_class_reaches_every_node() -> None:
    """The class of ``message_class`` reaches each node, made by its own constructor."""
    router = Router(message_class=Shouting)
    got = []

    @router.node(("word",), entry_point=True, name="first")
    def first(msg: Shouting) -> str:
        got.append((msg.loud, msg.made_by, msg.as_dict()))
        return "sun"

    @router.node((), "first", name="second")
    def second(msg: Shouting) -> None:
        got.append((msg.loud, msg.made_by, msg.as_dict()))

    router(word="rain")
    made_by = "its own constructor"
    assert got == [
        ("RAIN", made_by, {"word": "rain", "_origin": "__entry_point"}),
        ("SUN", made_by, {"word": "sun", "_origin": "first"}),
    ]


def test_no_result_is_a_class_and_its_instance_means_the_same() -> None:
    """Both ``NoResult`` and ``NoResult()`` send nothing on."""
    router = Router()
    for name, value in (("class", NoResult), ("instance", NoResult())):
        node = router.node(("n",), name=name)(lambda msg, value=value: value)
        assert node(n=1) is NoResult
