"""From a checkpoint and new volumes to label volumes in the volumes' own geometry."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import nn

from seg3d.checkpoint import load_checkpoint
from seg3d.config import Config, config_from_tree, config_tree
from seg3d.data.transforms import IMAGE, preprocessed_shape, preprocessing
from seg3d.device import compute_dtype
from seg3d.errors import UserError
from seg3d.files import require_folder
from seg3d.io import (
    SUFFIXES,
    Header,
    is_plain_folder,
    is_volume,
    read_header,
    stem,
    suffix,
    write_volume,
)
from seg3d.networks import build_network
from seg3d.plan import Plan
from seg3d.run import changed_keys
from seg3d.sliding_window import score_volume, window_count

FIRST_CHANNEL = "_0000"
# What the prediction of a DICOM series is.
WITHOUT_SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Job:
    """One prediction to be made.

    Attributes:
        images: one file per channel, or one with all channels.
        output: the label file to write.
    """

    images: tuple[Path, ...]
    output: Path

    @property
    def probabilities(self) -> Path:
        """Where the class probabilities go if they are asked for."""
        ending = suffix(self.output)
        return self.output.with_name(f"{stem(self.output)}_probabilities{ending}")


class Predictor:
    """A trained network with all that is needed to apply it to files.

    Args:
        network: takes `(B, C, D, H, W)`, gives class scores.
        config: of the run that trained it.
        plan: of that run.
        device: where to compute.
    """

    def __init__(
        self, network: nn.Module, config: Config, plan: Plan, device: torch.device
    ) -> None:
        self.network = network.to(device).eval()
        self.config = config
        self.plan = plan
        self.device = device
        self.dtype = compute_dtype("auto" if config.train.amp != "off" else "off", device)

    @classmethod
    def from_checkpoint(
        cls, path: Path, device: torch.device, overrides: tuple[str, ...] = ()
    ) -> Predictor:
        """Load the network of a checkpoint.

        Args:
            path: the checkpoint file.
            device: where to compute.
            overrides: ``key=value`` changes of keys under ``predict``.

        Raises:
            UserError: if the file is not a checkpoint of seg3d, or another key is changed.
        """
        stored, plan, content = load_checkpoint(path)
        config = config_from_tree(config_tree(stored), overrides, source="--set")
        for key in changed_keys(stored, config):
            if not key.startswith("predict."):
                raise UserError(
                    f"--set {key}: the network was trained with another value",
                    legal="keys under predict",
                )
        network = build_network(config, plan)
        network.load_state_dict(content["network"])
        return cls(network, config, plan, device)

    def probabilities(
        self, images: Sequence[Path], advance: Callable[[int], object] = lambda windows: None
    ) -> np.ndarray:
        """Class probabilities of a volume, on its own grid.

        Args:
            images: one file per channel, or one with all channels.
            advance: told the number of windows that have just been done.

        Returns:
            `(K, X, Y, Z)` float32, in the order of the file's axes.

        Raises:
            UserError: if the volume cannot be used.
        """
        transform = preprocessing(self.plan, labelled=False)
        image = transform({IMAGE: [str(path) for path in images]})[IMAGE]
        scores = score_volume(
            self.network,
            image,
            self.plan.patch_size,
            overlap=self.config.predict.overlap,
            window_batch=self.config.predict.window_batch,
            mirror_axes=self.config.augment.flip.axes if self.config.predict.mirror else (),
            device=self.device,
            dtype=self.dtype,
            advance=advance,
        )
        # The inverse needs to know what was done to the image.
        result = MetaTensor(
            scores.softmax(0), meta=image.meta, applied_operations=image.applied_operations
        )
        return transform.inverse({IMAGE: result})[IMAGE].numpy()

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """The most probable class of each voxel, as the values of the training labels.

        Args:
            probabilities: `(K, X, Y, Z)`.

        Returns:
            `(1, X, Y, Z)`, in the smallest common integer type that holds all values.
        """
        values = [one.values[0] for one in self.plan.classes]
        for kind in (np.uint8, np.int16, np.int32):
            if np.iinfo(kind).min <= min(values) and max(values) <= np.iinfo(kind).max:
                break
        return np.array(values, dtype=kind)[probabilities.argmax(0)][None]

    def run(
        self,
        job: Job,
        *,
        probabilities: bool = False,
        advance: Callable[[int], object] = lambda windows: None,
    ) -> None:
        """Make one prediction and write it.

        Raises:
            UserError: if the volume cannot be used.
        """
        header = self.checked_header(job)
        scores = self.probabilities(job.images, advance)
        write_volume(job.output, self.labels(scores), header)
        if probabilities:
            write_volume(job.probabilities, scores.astype(np.float32, copy=False), header)

    def windows(self, job: Job) -> int:
        """How many windows a job needs, for a progress bar."""
        shape = preprocessed_shape(self.checked_header(job).grid, self.plan)
        return window_count(shape, self.plan.patch_size, self.config.predict.overlap)

    def checked_header(self, job: Job) -> Header:
        """Read the headers of a job's images.

        Raises:
            UserError: if there are not as many channels as the network was trained on.
        """
        headers = [read_header(path) for path in job.images]
        channels = sum(header.channels for header in headers)
        names = [channel.name for channel in self.plan.channels]
        if channels != len(names):
            raise UserError(
                f"{job.images[0]}: the network needs {len(names)} channels ({', '.join(names)})",
                given=f"{channels} in {', '.join(path.name for path in job.images)}",
                legal="one file with all channels, or files NAME_0000, NAME_0001, ...",
            )
        return headers[0]


def plan_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Which files belong to which case, and where its prediction goes.

    Files ``NAME_0000``, ``NAME_0001``, ... of one folder are the channels of NAME; a number
    without such a beginning is part of the name.

    Args:
        inputs: files, and folders whose volumes are taken.
        output: a folder; or, for a single case, the file to write.

    Raises:
        UserError: if there is nothing to predict, or outputs would collide with each other or with
            inputs.
    """
    cases = list(_cases({path for one in inputs for path in _volumes(one)}))
    if not cases:
        raise UserError(f"no volume in {', '.join(map(str, inputs))}", legal=", ".join(SUFFIXES))
    as_file = output.name.lower().endswith(SUFFIXES) and not is_plain_folder(output)
    if as_file and len(cases) > 1:
        raise UserError(
            f"--output {output} is one file, but there are {len(cases)} cases to predict",
            fix="give a folder",
        )
    if not as_file and output.is_file():
        raise UserError(
            f"--output {output} is a file",
            legal=f"a folder, or a name ending in {', '.join(SUFFIXES)}",
        )
    require_folder(output.parent, "--output")
    jobs = [
        Job(images, output if as_file else output / (name + (suffix(images[0]) or WITHOUT_SUFFIX)))
        for name, images in cases
    ]
    written = [job.output.resolve() for job in jobs]
    if len(set(written)) < len(written):
        twice = next(path for path in written if written.count(path) > 1)
        raise UserError(f"two inputs would both be written to {twice}", fix="predict them apart")
    # A level that is read lies in the store that would be overwritten.
    read = {
        place
        for job in jobs
        for path in job.images
        for place in (path.resolve(), *path.resolve().parents)
    }
    if overwritten := read.intersection(written):
        raise UserError(
            f"the prediction would overwrite its input {overwritten.pop()}",
            fix="give another --output",
        )
    return jobs


def _cases(files: set[Path]) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Name and channels of every case, sorted."""
    used: set[Path] = set()
    for path in sorted(files):
        if path in used:
            continue
        name, channels = stem(path), [path]
        ending = path.name.removeprefix(name)
        if name.endswith(FIRST_CHANNEL):
            name = name.removesuffix(FIRST_CHANNEL)
            others = (path.with_name(f"{name}_{number:04d}{ending}") for number in range(1, 10_000))
            channels += itertools.takewhile(files.__contains__, others)
        used.update(channels)
        yield name, tuple(channels)


def _volumes(path: Path) -> list[Path]:
    if is_plain_folder(path):
        return sorted(
            file for file in path.iterdir() if is_volume(file) and not file.name.startswith(".")
        )
    if not path.exists():
        raise UserError(f"{path} does not exist", legal="volumes, or folders of volumes")
    suffix(path)
    return [path]
