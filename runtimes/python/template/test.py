from emit_sdk import call
from {{name}} import {{name}}


def test_{{name}}():
    assert call({{name}}, text="the rain") == [
        {"word": "the", "length": 3},
        {"word": "rain", "length": 4},
    ]
