"""The command line: parsing and printing only.

Heavy imports stand inside the commands, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from seg3d import __version__
from seg3d.errors import RunFailed, UserError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Commands(click.Group):
    """Turn every exception into one message on stderr and the right exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            self._leave(ctx, "interrupted", INTERRUPTED)
        except UserError as error:
            self._leave(ctx, f"error: {error}", BAD_INPUT)
        except RunFailed as error:
            self._leave(ctx, f"failed: {error}", FAILED)
        except Exception as error:
            self._leave(ctx, f"failed: {_in_words(error)}", FAILED)

    def _leave(self, ctx: click.Context, message: str, status: int) -> None:
        if ctx.meta.get("seg3d.debug"):
            traceback.print_exc()
        click.echo(message, err=True)
        ctx.exit(status)


def _in_words(error: Exception) -> str:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of memory ({str(error).splitlines()[0] if str(error) else 'RAM'})\n"
            "  to do: a smaller patch.size, train.batch_size or predict.window_batch"
        )
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return text
    return f"{text}\n  This was not foreseen; --debug shows where it happened."


def _debug(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["seg3d.debug"] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks."
)
device_option = click.option(
    "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N.  [default: auto]"
)
path = click.Path(path_type=Path)


def _segy_bytes(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from seg3d.io import segy

    numbers = value.split(",")
    if len(numbers) not in (2, 4) or not all(number.strip().isdecimal() for number in numbers):
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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="seg3d")
@debug_option
def main() -> None:
    """Segment 3D volumes with U-Nets whose training fits into little memory.

    \b
    Try it:            seg3d demo
    Your own volumes:  seg3d train configs/medical_ct.yaml --data Task09_Spleen
                       seg3d predict runs/medical_ct new_scans/ --output predictions/
                       seg3d evaluate predictions/ references/
    """


@main.command()
@click.argument("config", type=path)
@click.option("--data", type=path, help="Dataset folder or list file; overrides data.folder.")
@click.option("--run", "run_folder", type=path, help="Folder of the run.  [default: runs/CONFIG]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a config key.")
@click.option("--resume", is_flag=True, help="Continue the run from its last checkpoint.")
@device_option
@click.option("--fold", type=click.IntRange(min=0), help="Fold to train, counted from 0.")
@segy_options
@debug_option
@click.pass_context
def train(
    ctx: click.Context,
    config: Path,
    data: Path | None,
    run_folder: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    device: str,
    fold: int | None,
) -> None:
    """Train a network as CONFIG (a YAML file) says.

    The dataset's layout (MSD, nnU-Net, images/ and labels/, a CSV or JSON list) is recognised.

    \b
    Example:
      seg3d train configs/medical_ct.yaml --data Task09_Spleen --set train.epochs=100
      tensorboard --logdir runs
    """
    from rich.console import Console

    from seg3d.config import load_config
    from seg3d.device import choose_device
    from seg3d.prepare import default_run_folder, prepare
    from seg3d.run import Run, require_new_run, resume_run, sole_user
    from seg3d.train import train as train_run

    choose_device(device)
    if data is not None:
        overrides += (f"data.folder={json.dumps(str(data.absolute()))}",)
    if fold is not None:
        overrides += (f"data.fold={fold}",)
    asked = load_config(config, overrides)
    run = Run(run_folder or default_run_folder(config, asked.data.fold))
    console = Console()
    if resume:
        settings, differing = resume_run(run, asked, overrides)
        if differing:
            console.print(
                f"Note: the run keeps its own {run.config}; it differs from {config} in "
                f"{', '.join(differing)}. Use --set to change a key.",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    else:
        require_new_run(run)
        settings = asked
    with sole_user(run):
        prepared = prepare(settings, run, resume, console)
        ending = train_run(prepared, run, device, resume, console)
    console.print(f"{ending}: {run.folder}", highlight=False, markup=False, soft_wrap=True)
    if ending != "finished":
        console.print("  --resume continues it", highlight=False)
    console.print(
        f"  tensorboard --logdir {run.folder}", highlight=False, markup=False, soft_wrap=True
    )
    ctx.exit(INTERRUPTED if ending == "interrupted" else DONE)


@main.command()
@click.argument("run_or_checkpoint", type=path)
@click.argument("inputs", type=path, nargs=-1, required=True)
@click.option("--output", type=path, required=True, help="Folder, or a file for a single case.")
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
    run_or_checkpoint: Path,
    inputs: tuple[Path, ...],
    output: Path,
    probabilities: bool,
    overrides: tuple[str, ...],
    memory: str | None,
    resume: bool,
    device: str,
) -> None:
    """Segment INPUTS (files or folders) with a run's best network, or with a checkpoint file.

    Predictions have the shape, position and name of their input and the label values of the
    training data. Files NAME_0000, NAME_0001, ... are the channels of NAME. Volumes may be larger
    than the memory. Several GPUs share each volume if torchrun starts the command on them.

    Probabilities go to NAME_probabilities, one float channel per class. SEG-Y has one channel only:
    there it is the probability of the second class, if there are two.

    \b
    Example:
      seg3d predict runs/medical_ct scans/ --output predictions/
      seg3d predict runs/medical_ct/checkpoints/best.pt scan.nii.gz --output labels.nii.gz
      torchrun --nproc-per-node=2 -m seg3d predict runs/medical_ct scans/ --output predictions/
    """
    from rich.console import Console

    from seg3d.checkpoint import find_checkpoint
    from seg3d.config import parse_bytes
    from seg3d.device import choose_device
    from seg3d.jobs import plan_jobs, require_room_for_probabilities
    from seg3d.predict import Predictor
    from seg3d.progress import progress_bar
    from seg3d.ranks import joined_ranks

    chosen = choose_device(device)
    limit = None if memory is None else parse_bytes(memory, "--memory")
    checkpoint = find_checkpoint(run_or_checkpoint)
    jobs = plan_jobs(inputs, output)
    with joined_ranks() as ranks:
        predictor = Predictor.from_checkpoint(
            checkpoint, ranks.device(chosen), overrides, limit, ranks
        )
        if probabilities:
            require_room_for_probabilities(jobs, predictor.plan.class_names)
        console = Console(quiet=not ranks.first)
        windows = sum(predictor.windows(job, probabilities=probabilities) for job in jobs)
        with progress_bar(console, "windows", windows) as bar:
            for job in jobs:
                predictor.run(job, probabilities=probabilities, resume=resume, advance=bar.advance)
                console.print(str(job.output), highlight=False, markup=False, soft_wrap=True)


@main.command()
@click.argument("predictions", type=path)
@click.argument("references", type=path)
@click.option("--output", type=path, help="Folder for the metrics.  [default: PREDICTIONS]")
@click.option("--tolerance", type=click.IntRange(min=1), metavar="VOXELS",
              help="Also a Dice that forgives this distance, for thin structures.")  # fmt: skip
@segy_options
@debug_option
def evaluate(
    predictions: Path, references: Path, output: Path | None, tolerance: int | None
) -> None:
    """Compare PREDICTIONS with REFERENCES (two folders, or two files).

    Dice, volumes and voxel counts per case and class; mean, deviation and median over cases. Where
    NAME_probabilities lies beside a prediction (seg3d predict --probabilities), also the
    precision-recall curve of foreground against background, and average precision.

    \b
    Example:
      seg3d evaluate predictions/ Task09_Spleen/labelsTs/
      seg3d evaluate predictions/ faults/labelsTs/ --tolerance 2
    """
    from rich.console import Console

    from seg3d import evaluation_report as report
    from seg3d.curve_report import write_curve
    from seg3d.evaluate import evaluate as evaluate_pairs
    from seg3d.evaluate import find_pairs, label_names_near
    from seg3d.progress import progress_bar

    pairs = find_pairs(predictions, references)
    console = Console()
    with progress_bar(console, "cases", len(pairs)) as bar:
        evaluation = evaluate_pairs(pairs, label_names_near(references), bar.advance, tolerance)
    console.print(report.table(evaluation))
    folder = output or report.output_folder(predictions)
    for file in report.write_metrics(evaluation, folder) + write_curve(evaluation, folder):
        console.print(str(file), highlight=False, markup=False, soft_wrap=True)


@main.command()
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

    from seg3d.convert_volume import convert_volume

    console = Console()
    for note in convert_volume(source, target, console):
        click.echo(f"note: {note}", err=True)
    console.print(str(target), highlight=False, markup=False, soft_wrap=True)


@main.command()
@click.argument("config", type=path)
@click.option("--data", type=path, help="Dataset folder; overrides data.folder.")
@click.option("--output", type=path, required=True, help="Folder for the label volumes.")
@segy_options
@debug_option
def layers(config: Path, data: Path | None, output: Path) -> None:
    """Write the layers between horizons, as data.labels.horizons of CONFIG says, as SEG-Y volumes.

    To be looked at before training, and to be compared with predictions. Each has the headers of
    its survey; dataset.json beside them has the names of the values.

    \b
    Example:
      seg3d layers configs/seismic_layers.yaml --data surveys --output layers/
      seg3d evaluate predictions/ layers/
    """
    from rich.console import Console

    from seg3d.config import load_config
    from seg3d.layers import write_layers

    overrides = () if data is None else (f"data.folder={json.dumps(str(data.absolute()))}",)
    console = Console()
    for file in write_layers(load_config(config, overrides).data, output, console):
        console.print(str(file), highlight=False, markup=False, soft_wrap=True)


@main.command()
@click.argument("kind", type=click.Choice(["faults", "layers"]))
@click.option("--out", type=path, required=True, help="Folder of the dataset.")
@click.option("--count", type=click.IntRange(min=1), required=True, help="Volumes.")
@click.option("--shape", type=int, nargs=3, default=(128, 128, 128), show_default=True,
              help="Inlines, crosslines and samples.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--format", "ending", type=click.Choice(["nii.gz", "sgy"]), default="nii.gz",
              show_default=True, help="NIfTI or SEG-Y.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: all cores]")
@debug_option
def synth(
    kind: Any,
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
      seg3d train configs/seismic_faults.yaml --data faults
    """
    from rich.console import Console

    from seg3d.progress import progress_bar
    from seg3d.synth.dataset import write_dataset

    console = Console()
    with progress_bar(console, "volumes", count) as bar:
        write_dataset(
            out,
            kind,
            count=count,
            shape=shape,
            seed=seed,
            ending=f".{ending}",  # type: ignore[arg-type]
            workers=workers,
            advance=bar.advance,
        )
    console.print(str(out), highlight=False, markup=False, soft_wrap=True)


@main.command()
@click.argument("sample", type=click.Choice(["brain", "faults"]), default="brain")
@click.option("--run", "run_folder", type=path, help="Folder.  [default: runs/demo_SAMPLE]")
@device_option
@debug_option
@click.pass_context
def demo(ctx: click.Context, sample: str, run_folder: Path | None, device: str) -> None:
    """Train, predict and evaluate on sample data, in a few minutes.

    brain: tissues in MR of the head. faults: faults in synthetic seismic surveys, SEG-Y in and
    out. The folder then holds the data, the run, the predictions and prediction.png.

    \b
    Example:
      seg3d demo brain
      seg3d demo faults
    """
    from rich.console import Console

    from seg3d.demo import SAMPLES, run_demo
    from seg3d.device import choose_device

    choose_device(device)
    folder = run_folder or Path("runs") / f"demo_{sample}"
    ending = run_demo(SAMPLES[sample], folder, device, Console())
    if ending == "interrupted":
        click.echo("interrupted", err=True)
    ctx.exit(INTERRUPTED if ending == "interrupted" else DONE)


@main.command()
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
    from seg3d.info import run_info, system_info, volume_info
    from seg3d.io import is_volume

    if source is None:
        click.echo(system_info())
    else:
        click.echo(volume_info(source) if is_volume(source) else run_info(source))
