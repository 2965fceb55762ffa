"""Splits: every case validates once, the file is people's to edit, mistakes in it are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.data.cases import Case, Dataset, Split
from seg3d.data.splits import (
    choose_fold,
    load_or_make_splits,
    make_splits,
    save_splits,
    shares_cases,
)

NAMES = st.lists(st.text("abcXY12_é", min_size=1, max_size=6), min_size=2, max_size=30, unique=True)
FOLDS = st.integers(2, 10)
SEEDS = st.integers(0, 2**32)


def dataset(names: list[str], splits: list[Split | None] | None = None) -> Dataset:
    cases = tuple(
        Case(name, (Path(f"images/{name}.nii"),), Path(f"labels/{name}.nii"), split)
        for name, split in zip(names, splits or [None] * len(names), strict=True)
    )
    aside = (Case("aside", (Path("images/aside.nii"),), None, "test"),)
    return Dataset(layout="MSD", source=Path("here"), cases=cases, test=aside)


FIVE = dataset(["a", "b", "c", "d", "e"])


@given(NAMES, FOLDS, SEEDS)
def test_every_case_validates_exactly_once_and_never_in_the_fold_that_trains_on_it(
    names: list[str], folds: int, seed: int
):
    splits = make_splits(dataset(names), folds, seed)
    assert len(splits) == min(folds, len(names))
    assert sorted(name for fold in splits for name in fold["val"]) == sorted(names)
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == sorted(names)
        assert not shares_cases(fold)
        assert fold["train"]
    sizes = [len(fold["val"]) for fold in splits]
    assert max(sizes) - min(sizes) <= 1


@given(NAMES, FOLDS, SEEDS, st.randoms())
def test_order_of_listing_does_not_matter(names: list[str], folds: int, seed: int, random):
    before = make_splits(dataset(names), folds, seed)
    random.shuffle(names)
    assert make_splits(dataset(names), folds, seed) == before


def test_seeds_differ():
    many = dataset([f"case{number}" for number in range(20)])
    assert make_splits(many, 5, seed=1) != make_splits(many, 5, seed=2)


def test_splits_of_a_seed_never_change():
    assert [fold["val"] for fold in make_splits(FIVE, 2, seed=0)] == [["c", "d", "e"], ["a", "b"]]


def test_fewer_cases_than_folds_leave_one_out():
    splits = make_splits(dataset(["a", "b", "c"]), 5, seed=3)
    assert sorted(fold["val"] for fold in splits) == [["a"], ["b"], ["c"]]


def test_a_lone_case_trains_and_validates(tmp_path: Path):
    lone = dataset(["only"])
    (fold,) = load_or_make_splits(tmp_path / "splits.json", lone, 5, seed=0)
    assert fold == {"train": ["only"], "val": ["only"]}
    assert shares_cases(fold)
    assert load_or_make_splits(tmp_path / "splits.json", lone, 5, seed=0) == [fold]


def test_a_stated_split_is_the_only_fold():
    stated = dataset(["b", "a", "c"], ["train", "train", "val"])
    assert make_splits(stated, 5, seed=0) == [{"train": ["a", "b"], "val": ["c"]}]


def test_a_stated_split_without_validation_is_divided_into_folds():
    stated = dataset(["a", "b", "c"], ["train", None, "train"])
    assert make_splits(stated, 3, seed=0) == make_splits(dataset(["a", "b", "c"]), 3, seed=0)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["val", None, "train"], r"not for all\n  given: nothing for b\n"),
        (["val", "val", "val"], r"no case to train on\n  given: val for a, b, c\n"),
    ],
)
def test_half_stated_splits_are_refused(splits: list[Split | None], message: str):
    with pytest.raises(UserError, match=message):
        make_splits(dataset(["a", "b", "c"], splits), 5, seed=0)


@pytest.mark.parametrize("folds", [1, 0, -2])
def test_too_few_folds(folds: int):
    with pytest.raises(UserError, match=f"given: {folds}\n  legal: 2 or more"):
        make_splits(FIVE, folds, seed=0)


def test_once_written_they_are_followed(tmp_path: Path):
    path = tmp_path / "run" / "splits.json"
    made = load_or_make_splits(path, FIVE, 5, seed=1)
    assert not path.exists()
    save_splits(made, path)
    assert json.loads(path.read_text()) == made == make_splits(FIVE, 5, seed=1)
    assert [file.name for file in path.parent.iterdir()] == ["splits.json"]
    assert load_or_make_splits(path, FIVE, 3, seed=2) == made


def test_an_edited_file_is_followed_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "splits.json"
    text = '[{"train": ["a", "b"],\n  "val": ["e"]}]'
    path.write_text(text)
    assert load_or_make_splits(path, FIVE, 5, seed=0) == [{"train": ["a", "b"], "val": ["e"]}]
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"train": ["a"]', "not valid JSON\n.*line 2"),
        ("[]", "is not a list of folds"),
        ('{"train": ["a"], "val": ["b"]}', "is not a list of folds"),
        ('[["a"]]', "fold 0 is not a split"),
        ('[{"train": ["a"]}]', "fold 0 is not a split\n  given: keys train\n"),
        ('[{"train": ["a"], "val": ["b"], "test": ["c"]}]', "keys train, val, test"),
        ('[{"train": "a", "val": ["b"]}]', '"train" of fold 0 is not a list of names'),
        ('[{"train": ["a"], "val": [1]}]', '"val" of fold 0 is not a list of names'),
        ('[{"train": [], "val": ["b"]}]', '"train" of fold 0 is empty'),
        ('[{"train": ["a"], "val": []}]', '"val" of fold 0 is empty'),
        (
            '[{"train": ["a"], "val": ["b"]}, {"train": ["a", "y", "x"], "val": ["b"]}]',
            '"train" of fold 1 names unknown cases\n  given: x, y\n',
        ),
        ('[{"train": ["a"], "val": ["aside"]}]', "unknown cases\n  given: aside\n"),
        ('[{"train": ["a", "c", "a"], "val": ["b"]}]', "repeats cases\n  given: a\n"),
        ('[{"train": ["a", "b"], "val": ["b"]}]', "cases that it trains on\n  given: b\n"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_or_make_splits(path, FIVE, 5, seed=0)
    assert str(caught.value).startswith(str(path))
    assert "to do: correct the file" in str(caught.value)
    assert path.read_text() == text


def test_choose_fold():
    splits = make_splits(FIVE, 5, seed=0)
    assert [choose_fold(splits, number) for number in range(5)] == splits


@pytest.mark.parametrize("fold", [-1, 5])
def test_no_such_fold(fold: int):
    with pytest.raises(UserError, match=f"given: {fold}\n  legal: 0 to 4"):
        choose_fold(make_splits(FIVE, 5, seed=0), fold)
