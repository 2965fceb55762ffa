"""YAML from anywhere gives plain values or one kind of error."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from seg3d.common.yaml_text import in_one_line, parse_yaml

BOMB = "a: &a [x, x]\n" + "".join(
    f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    '!!int "x"': "x cannot be read as int",
    "!!bool x": "x cannot be read as bool",
    "!!map a": "expected a mapping node",
    "!!seq a": "expected a sequence node",
    '!!timestamp "x"': "x cannot be read as timestamp",
    "!!float ':'": ": cannot be read as float",
    "0x_": "0x_ cannot be read as int",
    "9" * 5000: "cannot be read as int",
    "0x" + "f" * 5000: "more than 300 digits",
    "[" * 3000 + "]" * 3000: "nested too deep",
    "[" * 60 + "]" * 60: "nested more than",
    "{a: 1, a: 2}": "a stands there twice",
    "&a [*a]": "nested more than",
    BOMB: "parts",
    "!!python/object/apply:os.getcwd []": "could not determine a constructor",
    "? [a]\n: b": "unhashable",
}


@pytest.mark.parametrize("text", REFUSED, ids=[text[:20] for text in REFUSED])
def test_what_is_no_plain_value_is_refused(text: str):
    with pytest.raises(yaml.YAMLError, match=REFUSED[text]):
        parse_yaml(f"x:\n  - {text}" if "\n" not in text else text)


def test_the_line_is_said():
    with pytest.raises(yaml.YAMLError, match="line 2, column 11"):
        parse_yaml('seed: 1\nepochs:   !!int "x"')


tagged = st.builds(
    "!!{} {}".format,
    st.sampled_from(["int", "float", "bool", "binary", "timestamp", "omap", "set", "map", "seq"]),
    st.sampled_from(["x", '""', "[a]", "{a: b}", "0x_", "1:2", "[[a, b, c]]", "~", "?"]),
)


@given(tagged | st.text("!&*[]{}:,-?~0x_ \n'\"ab|>#%", max_size=30))
@example("!!omap [a]")
def test_nothing_else_is_raised(text: str):
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return
    assert parse_yaml(in_one_line(value)) == value or value != value
