"""The command ``seg3d convert``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("source", metavar="A", type=path)
@click.argument("target", metavar="B", type=path)
@click.option("--like", metavar="IMAGE", type=path, help="Put A on the grid of this volume.")
@click.option(
    "--labels/--image",
    default=None,
    help="With --like, resample by the nearest voxel, or linearly.  [default: --labels, if A holds "
    "whole numbers]",
)
@segy_options
@debug_option
def convert(source: Path, target: Path, like: Path | None, labels: bool | None) -> None:
    """Write volume A as B, in the format of B's ending, whatever their size.

    A folder of DICOM files is a volume, and so is a resolution level of an OME-Zarr image.

    With --like, B has the grid of another volume: where the voxels are the same in another order,
    they are put in order, and nothing is lost; else A is resampled, and what lies outside of it
    is 0.

    \b
    Example:
      seg3d convert dicom/series_4/ scan.nii.gz
      seg3d convert scan.ome.zarr/2 small.nrrd
      seg3d convert Segmentation.seg.nrrd label.nii.gz --like scan.nii.gz
    """
    from seg3d.common.plain_text import printable
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.io.convert import convert_volume

    console = make_console()
    for note in convert_volume(source, target, console, like, labels):
        click.echo(printable(f"note: {note}"), err=True)
    print_as_is(console, target)
