"""The command ``seg3d convert``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("source", metavar="A", type=path)
@click.argument("target", metavar="B", type=path)
@segy_options
@debug_option
def convert(source: Path, target: Path) -> None:
    """Write volume A as B, in the format of B's ending, whatever their size.

    A folder of DICOM files is a volume, and so is a resolution level of an OME-Zarr image.

    \b
    Example:
      seg3d convert dicom/series_4/ scan.nii.gz
      seg3d convert scan.ome.zarr/2 small.nrrd
    """
    from rich.console import Console

    from seg3d.common.plain_text import printable
    from seg3d.common.printing import print_as_is
    from seg3d.io.convert import convert_volume

    console = Console()
    for note in convert_volume(source, target, console):
        click.echo(printable(f"note: {note}"), err=True)
    print_as_is(console, target)
