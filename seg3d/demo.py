"""The way through seg3d on sample data: train, predict, evaluate, look."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib.image
from rich.console import Console

from seg3d import evaluation_report as report
from seg3d.checkpoint import find_checkpoint
from seg3d.config import load_config
from seg3d.data.cohort import SYNTHETIC, write_cohort
from seg3d.device import choose_device
from seg3d.evaluate import evaluate, find_pairs, label_names_near
from seg3d.files import atomic_write
from seg3d.io import read_labels, read_volume
from seg3d.jobs import plan_jobs
from seg3d.pictures import three_planes
from seg3d.predict import Predictor
from seg3d.prepare import prepare
from seg3d.resources import resource
from seg3d.run import Run, require_new_run
from seg3d.train import Ending, train

# What a demo leaves in its folder.
MADE = (
    "cache",
    "checkpoints",
    "config.yaml",
    "data",
    "log.jsonl",
    "plan.yaml",
    "prediction.png",
    "predictions",
    "splits.json",
    "tensorboard",
)
SUBJECTS = 10
COHORT_SEED = 2026
CAVEAT = (
    "The subjects are deformations of one template: these scores speak of the method, "
    "not of the clinic."
)


def run_brain_demo(folder: Path, device_name: str, console: Console) -> Ending:
    """Segment brain tissue in synthetic MR subjects made from the ICBM152 template.

    Args:
        folder: of the run; the subjects go to ``folder/data``. An earlier demo there is replaced.
        device_name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        console: for everything that is shown.

    Returns:
        How training ended; what follows it is left out unless it finished or ran out of time.

    Raises:
        UserError: if the folder holds something else than an earlier demo.
    """
    run = Run(folder)
    data = folder / "data"
    config = load_config(
        resource("configs/demo_brain.yaml"), (f"data.folder={str(data.absolute())!r}",)
    )
    _remove_earlier_demo(folder)
    require_new_run(run)
    console.print(f"Making {SUBJECTS} synthetic subjects and a test subject in {data}")
    write_cohort(resource("data/brain"), data, subjects=SUBJECTS, seed=COHORT_SEED)
    prepared = prepare(config, run, False, console)
    ending = train(prepared, run, device_name, False, console)
    if ending == "interrupted":
        return ending

    predictor = Predictor.from_checkpoint(find_checkpoint(folder), choose_device(device_name))
    predictions = folder / "predictions"
    jobs = plan_jobs([data / "imagesTs"], predictions)
    for job in jobs:
        predictor.run(job)
    references = data / "labelsTs"
    evaluation = evaluate(find_pairs(predictions, references), label_names_near(references))
    report.write_metrics(evaluation, predictions)
    console.print(report.table(evaluation))
    console.print(CAVEAT)

    picture = folder / "prediction.png"
    image = read_volume(jobs[0].images[0])
    rows = {
        "reference": read_labels(references / jobs[0].output.name).array[0],
        "prediction": read_labels(jobs[0].output).array[0],
    }
    drawn = three_planes(
        image.array[0], rows, prepared.plan.class_names, image.grid.spacing,
        title=f"Held-out volume, mean Dice {evaluation.foreground_mean_dice():.3f}",
        orientation=image.grid.orientation,
    )  # fmt: skip
    with atomic_write(picture, suffix=".png") as temporary:
        matplotlib.image.imsave(temporary, drawn)
    console.print(
        f"run folder   {folder}\npicture      {picture}\n"
        f"TensorBoard  tensorboard --logdir {folder}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return ending


def _remove_earlier_demo(folder: Path) -> None:
    """Remove what a demo makes, and only if the data there are a demo's own."""
    try:
        about = json.loads((folder / "data" / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(about, dict) and str(about.get("description")).startswith(SYNTHETIC):
        for name in MADE:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
