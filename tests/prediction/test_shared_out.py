"""How the volumes of a folder are shared out among processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seg3d.common.ranks import Ranks
from seg3d.prediction.jobs import shared_out


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(1, 6))
def test_every_job_is_made_once_and_the_loads_are_alike(windows: list[int], count: int) -> None:
    shares = [shared_out(windows, Ranks(rank, count)) for rank in range(count)]
    common = shares[0][0]
    assert all(one == common for one, _ in shares)
    assert len(common) == len(windows) % count
    alone = [number for _, own in shares for number in own]
    assert sorted([*common, *alone]) == list(range(len(windows)))
    if common and alone:
        assert min(windows[one] for one in common) >= max(windows[one] for one in alone)
    loads = [sum(windows[number] for number in own) for _, own in shares]
    assert max(loads) - min(loads) <= max((windows[number] for number in alone), default=0)
