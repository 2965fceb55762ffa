"""Options for what SEG-Y files do not say themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from seg3d.common.errors import UserError

SMALL = re.compile(r"\s*[0-9]{1,9}\s*")


def _segy_bytes(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from seg3d.io import segy

    numbers = value.split(",")
    if len(numbers) not in (2, 4) or not all(map(SMALL.fullmatch, numbers)):
        raise UserError(
            "--segy-bytes should be byte positions in the trace header, counted from 1",
            given=value,
            legal="INLINE,CROSSLINE or INLINE,CROSSLINE,X,Y, such as 189,193 or 189,193,181,185",
        )
    segy.assume(positions=segy.Positions(*map(int, numbers)))


def _segy_depth(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        from seg3d.io import segy

        segy.assume(domain="depth")


_segy_bytes_option = click.option(
    "--segy-bytes",
    metavar="INLINE,CROSSLINE",
    expose_value=False,
    callback=_segy_bytes,
    help="Where SEG-Y trace headers have the line numbers, such as 189,193.  [default: found]",
)
_segy_depth_option = click.option(
    "--segy-depth",
    is_flag=True,
    expose_value=False,
    callback=_segy_depth,
    help="Samples of SEG-Y files lie in depth, not in time.",
)


def segy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What SEG-Y files do not say themselves."""
    return _segy_bytes_option(_segy_depth_option(command))
