"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from seg3d.cli.exit_status import hear_libraries
from seg3d.common.plain_text import is_text

path = click.Path(path_type=Path)


class _TextPath(click.Path):
    """A path whose name can be written to any file."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not is_text(os.fsdecode(value)):
            self.fail(f"{value}: this name is not in UTF-8", param, ctx)
        return super().convert(value, param, ctx)


text_path = _TextPath(path_type=Path)


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
init_from_option = click.option(
    "--init-from",
    type=text_path,
    metavar="RUN",
    help="Run or checkpoint whose weights, and plan, training begins with.",
)
