"""Draws that depend on a seed alone."""

from __future__ import annotations

from seg3d.data.draw import seed_of


def test_a_name_that_is_no_text_has_a_seed() -> None:
    assert seed_of("\udcff\udcfe") != seed_of("\udcff")
