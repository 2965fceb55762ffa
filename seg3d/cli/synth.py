"""The command ``seg3d synth``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from seg3d.cli.options import debug_option, path

if TYPE_CHECKING:
    from seg3d.synth.dataset import Ending, Kind

ENDINGS: dict[str, Ending] = {"nii.gz": ".nii.gz", "sgy": ".sgy"}


@click.command()
@click.argument("kind", type=click.Choice(["faults", "layers"]))
@click.option("--out", type=path, required=True, help="Folder of the dataset.")
@click.option("--count", type=click.IntRange(min=1), required=True, help="Volumes.")
@click.option("--shape", type=int, nargs=3, default=(128, 128, 128), show_default=True,
              help="Inlines, crosslines and samples.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--format", "ending", type=click.Choice(list(ENDINGS)), default="nii.gz",
              show_default=True, help="NIfTI or SEG-Y.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: all cores]")
@debug_option
def synth(
    kind: Kind,
    out: Path,
    count: int,
    shape: tuple[int, int, int],
    seed: int,
    ending: str,
    workers: int | None,
) -> None:
    """Make synthetic seismic volumes to train on, with faults or facies as labels.

    Layers are folded, sheared and faulted, and convolved with a wavelet (docs/seismic.md). The
    dataset has the layout of nnU-Net. Volume n depends on --seed, --shape and n alone.

    \b
    Example:
      seg3d synth faults --out faults --count 200
      seg3d train seismic_faults --data faults
    """
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.common.progress import progress_bar
    from seg3d.synth.dataset import write_dataset

    console = make_console()
    with progress_bar(console, "volumes", count) as bar:
        write_dataset(
            out,
            kind,
            count=count,
            shape=shape,
            seed=seed,
            ending=ENDINGS[ending],
            workers=workers,
            advance=bar.advance,
        )
    print_as_is(console, out)
