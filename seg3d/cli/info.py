"""The command ``seg3d info``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("source", metavar="[RUN | VOLUME]", type=path, required=False)
@segy_options
@debug_option
def info(source: Path | None) -> None:
    """Show versions and devices; or a run's state, labels and score; or a volume's geometry.

    \b
    Example:
      seg3d info runs/medical_ct
      seg3d info survey.sgy
    """
    from seg3d.common.plain_text import printable
    from seg3d.info import run_info, system_info, volume_info
    from seg3d.io import is_volume

    if source is None:
        click.echo(system_info())
    else:
        click.echo(printable(volume_info(source) if is_volume(source) else run_info(source)))
