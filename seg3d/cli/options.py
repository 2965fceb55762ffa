"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.exit_status import hear_libraries

path = click.Path(path_type=Path)


def _debug(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["seg3d.debug"] = True
        hear_libraries(True)


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks."
)
device_option = click.option(
    "--device",
    default="auto",
    metavar="NAME",
    help="auto, cpu, cuda, cuda:N or mps.  [default: auto]",
)
