"""What is printed or echoed is harmless and short, whatever it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.common.plain_text import LONGEST_LINE, MOST_LINES, echo_of, printable
from seg3d.common.plain_values import DEEPEST, require_moderate
from seg3d.common.printing import print_as_is

# Half characters stand for bytes of a file's name that are no UTF-8.
any_text = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none() | any_text | st.integers() | st.floats() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(any_text, inner),
)


def harmless(text: str) -> bool:
    text.encode()
    return all(one.isprintable() or one.isspace() and ord(one) > 31 or one == "\n" for one in text)


@given(any_text)
def test_what_a_terminal_would_obey_is_escaped(text: str):
    assert harmless(printable(text))


@pytest.mark.parametrize(
    "text", ["liver_1.nii.gz", "Größe 3 × 4 · ⟨µm⟩", "肝臓\u3000一", "a\u00a0b", "one\ntwo"]
)
def test_what_people_write_stays(text: str):
    assert printable(text) == text


def test_a_line_break_in_the_name_of_a_file_is_none(capsys: pytest.CaptureFixture[str]):
    print_as_is(Console(), Path("a\nerror: b\x1b[2J"))
    assert capsys.readouterr().out == "a\\nerror: b\\x1b[2J\n"


@given(any_text, values, any_text)
def test_a_message_is_short_and_harmless(problem: str, value: Any, fix: str):
    said = str(UserError(problem * 50, given=value, legal=problem, fix=fix))
    assert harmless(said)
    assert max(map(len, said.split("\n"))) <= LONGEST_LINE + len("  legal: ")
    assert said.count("\n") <= 4 * (MOST_LINES + 1)


def test_both_ends_of_a_long_line_are_shown():
    said = str(UserError(f"/data/{'x' * 5000}/scan.nii is damaged"))
    assert said.startswith("/data/xxx") and said.endswith("xxx/scan.nii is damaged")


def bomb() -> list[Any]:
    """Ten lines of YAML can stand for as many values."""
    value: list[Any] = ["lol"]
    for _ in range(30):
        value = [value] * 10
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


TOO_MUCH = {
    "bomb": bomb(),
    "endless": endless(),
    "digits": 16**6000,
    "deep": nested(5000),
    "a little deep": nested(DEEPEST + 2),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_nothing_is_too_much_to_be_echoed(kind: str):
    assert len(echo_of(TOO_MUCH[kind])) <= LONGEST_LINE


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_values_that_nobody_writes_are_refused(kind: str):
    with pytest.raises(ValueError, match=r"more than|has more"):
        require_moderate(TOO_MUCH[kind])


def test_values_that_people_write_are_not():
    require_moderate({"labels": {str(number): [number] for number in range(5000)}, "x": 10**300})
    require_moderate(nested(DEEPEST))


@pytest.mark.parametrize("value", ["\udcff", ["a\ud800"], {"\udcff": 1}])
def test_half_characters_are_refused(value: Any):
    with pytest.raises(ValueError, match="half characters"):
        require_moderate(value)
