"""The command ``seg3d predict``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from seg3d.cli.options import debug_option, device_option, path
from seg3d.cli.segy_options import segy_options


@contextmanager
def resume_explained() -> Iterator[None]:
    """Say how to go on after an interrupt."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("--resume continues it") from error


@click.command()
@click.argument("model", type=path)
@click.argument("inputs", type=path, nargs=-1, required=True)
@click.option("--output", type=path, required=True, help="Folder, or a file for a single case.")
@click.option("--recursive", is_flag=True, help="Take volumes in folders of the folders too.")
@click.option(
    "--pattern",
    "patterns",
    multiple=True,
    metavar="PATH",
    help="Where the image lies in the folders, such as CASE/t1.nii.gz; once for each channel.",
)
@click.option("--probabilities", is_flag=True, help="Write class probabilities too (see below).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a predict key.")
@click.option(
    "--memory",
    metavar="SIZE",
    help="Most RAM for the process, and GPU memory, (4GiB).  "
    "[default: 50% and 80% of what is free]",
)
@click.option("--resume", is_flag=True, help="Go on where an earlier call stopped.")
@device_option
@segy_options
@debug_option
def predict(
    model: Path,
    inputs: tuple[Path, ...],
    output: Path,
    recursive: bool,
    patterns: tuple[str, ...],
    probabilities: bool,
    overrides: tuple[str, ...],
    memory: str | None,
    resume: bool,
    device: str,
) -> None:
    """Segment INPUTS (files or folders) with MODEL: a run, a checkpoint file or an nnU-Net model.

    Of a run, the best network is taken; of an nnU-Net model (a folder with plans.json and fold_*),
    the networks of all folds, or of those in --set predict.folds=[0,1].

    Predictions have the shape, position and name of their input and the label values of the
    training data. Files NAME_0000, NAME_0001, ... are the channels of NAME. Volumes may be larger
    than the memory. If torchrun starts the command, its processes share out the volumes, or where
    there are fewer volumes than processes the windows of each.

    With --recursive, predictions lie in folders of the same names as their inputs. In a --pattern,
    CASE stands for the name of the case, which its prediction gets, and * for anything.

    Probabilities go to NAME_probabilities, one float channel per class. SEG-Y has one channel only:
    there it is the probability of the second class, if there are two.

    \b
    Example:
      seg3d predict runs/medical_ct scans/ --output predictions/
      seg3d predict runs/medical_ct/checkpoints/best.pt scan.nii.gz --output labels.nii.gz
      seg3d predict runs/brain_mr bids/ --pattern sub-CASE/anat/*_T1w.nii.gz --output predictions/
      torchrun --nproc-per-node=2 -m seg3d predict runs/medical_ct scans/ --output predictions/
    """
    from seg3d.common.device import choose_device
    from seg3d.common.notes import Note, in_lines
    from seg3d.common.plain_text import printable
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.common.progress import progress_bar
    from seg3d.common.ranks import joined_ranks
    from seg3d.config import ignored_overrides, parse_bytes
    from seg3d.prediction.jobs import Job, plan_jobs, require_room_for_probabilities, shared_out
    from seg3d.prediction.models import require_there
    from seg3d.prediction.predictor import Predictor

    chosen = choose_device(device)
    limit = None if memory is None else parse_bytes(memory, "--memory")
    require_there(model)
    jobs = plan_jobs(inputs, output, recursive=recursive, patterns=patterns)
    with resume_explained(), joined_ranks() as ranks:
        predictor = Predictor.from_checkpoint(model, ranks.device(chosen), overrides, limit, ranks)
        if probabilities:
            require_room_for_probabilities(jobs, predictor.plan)
        console = make_console(quiet=not ranks.first)
        own_console = console if ranks.first else make_console()
        for note in ignored_overrides(predictor.config, overrides) if ranks.first else ():
            click.echo(printable(f"note: {note}"), err=True)
        with predictor.sole_writer(jobs, probabilities=probabilities):
            notes: list[Note] = []

            def windows(job: Job, alone: bool) -> int:
                return predictor.windows(
                    job, probabilities=probabilities, note=notes.append, alone=alone
                )

            counts = ranks.from_first(lambda: [windows(job, alone=True) for job in jobs])
            for line in in_lines(notes) if ranks.first else ():
                click.echo(printable(f"note: {line}"), err=True)
            common, own = shared_out(counts, ranks)
            total = sum(counts[number] for number in own) + sum(
                windows(jobs[number], alone=False) for number in common
            )
            with progress_bar(console, "windows", total) as bar:
                for number in (*common, *own):
                    alone = number in own
                    predictor.run(
                        jobs[number],
                        probabilities=probabilities,
                        resume=resume,
                        advance=bar.advance,
                        alone=alone,
                    )
                    # Of its own ones, each process tells.
                    print_as_is(own_console if alone else console, jobs[number].output)
