"""The command ``seg3d layers``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, path, text_path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("config", type=path)
@click.option("--data", type=text_path, help="Dataset folder; overrides data.folder.")
@click.option("--output", type=path, required=True, help="Folder for the label volumes.")
@segy_options
@debug_option
def layers(config: Path, data: Path | None, output: Path) -> None:
    """Write the layers between horizons, as data.labels.horizons of CONFIG says, as SEG-Y volumes.

    To be looked at before training, and to be compared with predictions. Each has the headers of
    its survey; dataset.json beside them has the names of the values.

    \b
    Example:
      seg3d layers seismic_layers --data surveys --output layers/
      seg3d evaluate predictions/ layers/
    """
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.config import load_config, path_override
    from seg3d.data.horizon_volumes import write_layers

    console = make_console()
    for file in write_layers(
        load_config(config, path_override("data.folder", data)).data, output, console
    ):
        print_as_is(console, file)
