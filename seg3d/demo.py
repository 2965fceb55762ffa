"""The way through seg3d on sample data: make them, train, predict, evaluate, look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
from rich.console import Console

from seg3d.common.files import atomic_write
from seg3d.common.printing import print_as_is
from seg3d.common.resources import resource
from seg3d.common.sole_writer import sole_writer
from seg3d.config import load_config
from seg3d.data import cohort
from seg3d.evaluation import Evaluation, evaluate, find_classes, find_pairs, report
from seg3d.evaluation.curve_report import write_curve
from seg3d.io import Volume, read_labels, read_volume
from seg3d.pictures.planes import three_planes
from seg3d.pictures.sections import scales_of, seismic_sections
from seg3d.prediction.jobs import Job, plan_jobs
from seg3d.prediction.predictor import Predictor
from seg3d.runs.checkpoint import load_checkpoint
from seg3d.runs.run_folder import Run, require_new_run
from seg3d.synth import dataset as synth
from seg3d.training.loop import Ending
from seg3d.training.start import train

# Written last.
PICTURE = "prediction.png"
# What a demo leaves in its folder.
MADE = (
    "cache",
    "checkpoints",
    "config.yaml",
    "data",
    "log.jsonl",
    "plan.yaml",
    PICTURE,
    "predictions",
    "splits.json",
    "tensorboard",
)
SEED = 2026
SUBJECTS = 10
SURVEYS, TEST_SURVEYS, SIDE = 24, 6, 96


@dataclass(frozen=True)
class Sample:
    """Data that a demo makes and learns from.

    Attributes:
        config: name of the resource.
        description: how that of its dataset begins.
        making: what is being made, for people.
        make: writes ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs`` to a folder.
        draw: makes the picture `(H, W, 3)` from the image, rows of labels, class names and title.
        tolerance: for structures so thin that a miss by this many voxels counts as a hit; their
            probabilities are written and evaluated too.
        caveat: what the scores do not say.
    """

    config: str
    description: str
    making: str
    make: Callable[[Path], None]
    draw: Callable[[Volume, dict[str, np.ndarray], list[str], str], np.ndarray]
    tolerance: int | None
    caveat: str


def _draw_brain(
    image: Volume, rows: dict[str, np.ndarray], class_names: list[str], title: str
) -> np.ndarray:
    grid = image.grid
    return three_planes(
        image.array[0], rows, class_names, grid.spacing, title, orientation=grid.orientation
    )


def _draw_survey(
    image: Volume, rows: dict[str, np.ndarray], class_names: list[str], title: str
) -> np.ndarray:
    return seismic_sections(image.array[0], rows, class_names, scales_of(image.header), title)


BRAIN = Sample(
    config="configs/demo_brain.yaml",
    description=cohort.SYNTHETIC,
    making=f"{SUBJECTS} synthetic subjects and a test subject",
    make=lambda folder: cohort.write_cohort(
        resource("data/brain"), folder, subjects=SUBJECTS, seed=SEED
    ),
    draw=_draw_brain,
    tolerance=None,
    caveat="The subjects are deformations of one template: these scores speak of the method, "
    "not of the clinic.",
)
FAULTS = Sample(
    config="configs/demo_faults.yaml",
    description=synth.description("faults", SEED),
    making=f"{SURVEYS} synthetic surveys and {TEST_SURVEYS} test surveys (SEG-Y, {SIDE}³)",
    make=lambda folder: synth.write_dataset(
        folder,
        "faults",
        count=SURVEYS,
        test=TEST_SURVEYS,
        shape=(SIDE, SIDE, SIDE),
        seed=SEED,
        ending=".sgy",
    ),
    draw=_draw_survey,
    tolerance=2,
    caveat="The surveys are synthetic: these scores speak of the method, not of field data.",
)
SAMPLES = {"brain": BRAIN, "faults": FAULTS}


def run_demo(sample: Sample, folder: Path, device_name: str, console: Console) -> Ending:
    """Make sample data, train on them, segment what was held out, and compare.

    Args:
        sample: what to make and how to look at it.
        folder: of the run; the data go to ``folder/data``. An earlier demo there is replaced.
        device_name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        console: for everything that is shown.

    Returns:
        How training ended; what follows it is left out unless it finished or ran out of time.

    Raises:
        UserError: if the folder holds something else than an earlier demo, or another demo is at
            work there.
    """
    with sole_writer(folder / PICTURE):
        return _run_alone(sample, folder, device_name, console)


def _run_alone(sample: Sample, folder: Path, device_name: str, console: Console) -> Ending:
    run = Run(folder)
    data = folder / "data"
    config = load_config(resource(sample.config), (f"data.folder={str(data.absolute())!r}",))
    _remove_earlier_demo(folder, sample)
    require_new_run(run)
    print_as_is(console, f"Making {sample.making} in {data}")
    sample.make(data)
    ending = train(config, run=folder, device=device_name, console=console).ending
    if ending == "interrupted":
        return ending

    predictor = Predictor.from_checkpoint(folder, device_name)
    predictions, references = folder / "predictions", data / "labelsTs"
    jobs = plan_jobs([data / "imagesTs"], predictions)
    for job in jobs:
        predictor.run(job, probabilities=sample.tolerance is not None)
    evaluation = evaluate(
        find_pairs(predictions, references),
        find_classes(predictions, references),
        tolerance=sample.tolerance,
    )
    report.write_metrics(evaluation, predictions)
    write_curve(evaluation, predictions)
    console.print(report.table(evaluation))
    console.print(sample.caveat)
    title = f"Held-out volume (1 of {len(jobs)}), {_scores(sample, evaluation)}"
    if ending == "out of time":
        done = load_checkpoint(run.last)[2]["position"]["epochs_done"]
        share = f"{done} of {config.train.epochs} epochs"
        console.print(
            f"Training stopped at its time limit after {share}: a whole training scores higher. "
            "This machine is slow, or was busy."
        )
        title += f", after {share}"

    picture = folder / PICTURE
    _draw(sample, jobs[0], references, predictor.plan.class_names, title, picture)
    print_as_is(
        console,
        f"run folder   {folder}\npicture      {picture}\n"
        f"TensorBoard  tensorboard --logdir {folder}",
    )
    return ending


def _draw(
    sample: Sample,
    job: Job,
    references: Path,
    class_names: list[str],
    title: str,
    path: Path,
) -> None:
    image = read_volume(job.images[0])
    rows = {
        "reference": read_labels(references / job.output.name).array[0],
        "prediction": read_labels(job.output).array[0],
    }
    drawn = sample.draw(image, rows, class_names, title)
    with atomic_write(path, suffix=".png") as temporary:
        matplotlib.image.imsave(temporary, drawn)


def _scores(sample: Sample, evaluation: Evaluation) -> str:
    scores = f"mean Dice {evaluation.foreground_mean_dice():.3f}"
    if sample.tolerance is None:
        return scores
    dice = evaluation.foreground_mean_dice("tolerance_dice")
    return f"{scores}, {dice:.3f} with a tolerance of {sample.tolerance} voxels"


def _remove_earlier_demo(folder: Path, sample: Sample) -> None:
    """Remove what a demo makes, and only if the data there are a demo's own."""
    try:
        about = json.loads((folder / "data" / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(about, dict) and str(about.get("description")).startswith(sample.description):
        for name in MADE:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
