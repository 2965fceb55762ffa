"""A plan as a file: it says what it holds, can be changed, and is refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.plan import ChannelIntensity, LabelClass, Plan, adopted, load_plan, save_plan
from tests.plans import classes, small_config, small_plan

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBERS = st.floats(-1e6, 1e6)


@settings(deadline=None, max_examples=100)
@given(
    name=NAMES,
    dataset=NAMES,
    numbers=st.tuples(NUMBERS, NUMBERS, NUMBERS, st.floats(1e-9, 1e9)),
    spacing=st.none() | st.tuples(*[st.floats(1e-3, 1e3)] * 3),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    dataset: str,
    numbers: tuple[float, float, float, float],
    spacing: tuple[float, float, float] | None,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    fields = dict(zip(("low", "high", "mean", "std"), numbers, strict=True))
    plan = small_plan(
        dataset=dataset,
        spacing=spacing,
        channels=[ChannelIntensity(name=name, kind="ct", **fields)],
        classes=[*classes([0], [1, -7]), LabelClass(name=name, values=[3])],
    )
    save_plan(plan, path)
    assert load_plan(path) == plan


def test_every_key_has_a_comment_above_it(tmp_path: Path) -> None:
    save_plan(small_plan(), tmp_path / "plan.yaml")
    lines = (tmp_path / "plan.yaml").read_text().splitlines()
    for name, field in Plan.model_fields.items():
        assert field.description
        (place,) = [number for number, line in enumerate(lines) if line.startswith(f"{name}:")]
        above = lines[:place][::-1]
        comment = [line[2:] for line in above[: above.index("")]][::-1]
        assert " ".join(map(str.strip, comment)).startswith(field.description)
    text = "\n".join(lines)
    for key in ("kind", "low", "nonzero", "values"):
        assert f"#   {key}: " in text
    assert "patch_size: [16, 16, 16]" in lines and "- [2, 2, 2]" in lines


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("patch_size: [16", "patch_size: [0", "patch_size.0: Input should be greater"),
        ("batch_size: 2", "batch_size: two", "batch_size: "),
        ("kernels:", "kernel:", "kernels: Field required; kernel: Extra"),
        ("- [3, 3, 3]", "- [3, 2, 3]", "kernels.0: should be odd"),
        ("- [1, 1, 1]", "- [2, 1, 1]", "the first of the strides is not"),
        ("- [1, 1, 1]\n", "", "strides"),
        ("rest: null", "rest: [", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "plan.yaml"
    save_plan(small_plan(), path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError) as raised:
        load_plan(path)
    assert str(raised.value).startswith(f"plan.file: {path} is not") and said in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="plan.file: .*none.yaml cannot be read"):
        load_plan(tmp_path / "none.yaml")


AUTO = small_config(train={"batch_size": "auto"}, plan={"file": "my.yaml"})


def test_what_a_plan_says_counts_but_for_what_the_config_gives() -> None:
    mine = small_plan(dataset="old", patch_size=(32, 16, 8), batch_size=3, features=[2, 3])
    plan = adopted(AUTO, mine, small_plan(dataset="new"))
    assert plan == mine.model_copy(update={"dataset": "new"})
    given = small_config(train={"batch_size": 5}, patch={"size": [8, 8, 8]})
    plan = adopted(given, mine, small_plan())
    assert (plan.batch_size, plan.patch_size, plan.features) == (5, (8, 8, 8), [2, 3])


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"channels": [ChannelIntensity(name="CT", kind="ct")]}, r"channels\n.*\[CT\]\n.*\[T1\]"),
        ({"classes": classes([0], [1])}, r"other data: classes\n"),
        ({"ignore": [9]}, r"ignore\n  given: \[9\]\n  legal: \[\]"),
        ({"rest": "ignore"}, "rest\n  given: ignore\n  legal: null"),
        ({"orientation": "LPI"}, "orientation\n  given: LPI\n  legal: none"),
        (
            {"patch_size": (17, 16, 16)},
            r"patch_size in my.yaml is not div.*\n.*\n.*\n.*\[16, 16, 16\] or \[18, 16, 16\]",
        ),
        ({"patch_size": (2, 2, 2)}, r"leaves a single voxel to .*\n.*\n.*\n.*use \[4, 4, 4\]"),
    ],
)
def test_a_plan_that_does_not_fit(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        adopted(AUTO, small_plan(**changes), small_plan())
