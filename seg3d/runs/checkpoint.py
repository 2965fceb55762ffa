"""Self-contained checkpoints: all that prediction and an exact continuation need."""

from __future__ import annotations

import platform
import random
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write
from seg3d.common.plain_values import require_moderate
from seg3d.common.version import __version__
from seg3d.config import Config, UNet3dConfig, config_from_tree, config_tree
from seg3d.plan import Plan, build_network

FORMAT = 1
# Under this key a checkpoint that was imported has the weights of several networks.
FOLDS = "folds"


def save_checkpoint(path: Path, config: Config, plan: Plan, state: dict[str, Any]) -> None:
    """Write ``state`` with the config, the plan, the versions and all random states.

    Args:
        path: appears under this name only when it is whole.
        config: of the run.
        plan: of the run.
        state: tensors, numbers, text, lists and dictionaries of them.

    Raises:
        UserError: if the disk is full.
    """
    content = {
        "format": FORMAT,
        "config": config_tree(config),
        "plan": plan.model_dump(mode="json"),
        "versions": versions(),
        "random": _random_states(),
        **state,
    }
    # Into an open file: given its name, which is random, PyTorch would write that there too.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(_alike(content), file)
        except RuntimeError as error:
            # PyTorch says at which byte it failed; why, only the system's error says.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise cause from None


def load_checkpoint(path: Path) -> tuple[Config, Plan, dict[str, Any]]:
    """Read a checkpoint without running any code in it.

    Returns:
        The config, the plan and the whole content.

    Raises:
        UserError: if the file is missing, damaged or not a checkpoint of seg3d.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    with damage_explained(path):
        require_plain_records(path)
        with warnings.catch_warnings():
            # About the pickles of other people's files; the refusal below says enough.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"holds a {type(content).__name__}")
        if content["format"] != FORMAT:
            raise UserError(
                f"checkpoint {path} is of format {content['format']}",
                legal=f"format {FORMAT}",
                fix=f"use the version of seg3d that wrote it ({content['versions']['seg3d']})",
            )
        for key in ("config", "plan", "versions", "position"):
            require_moderate(content.get(key))
        config = config_from_tree(content["config"], source=str(path))
        plan = Plan.model_validate(content["plan"])
        for weights in (content.get("network", {}), *content.get(FOLDS, {}).values()):
            require_finite(weights)
        return config, plan, content


@contextmanager
def damage_explained(path: Path, whose: str = "of seg3d") -> Iterator[None]:
    """Turn whatever a damaged checkpoint makes the block raise into a `UserError`."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # It can be almost anything; of long messages the first sentence will do.
        raise UserError(
            f"{path} is damaged or not a checkpoint {whose}",
            given=f"{type(error).__name__}: {error}".partition("\n")[0].partition(". ")[0],
        ) from error


def trained_network(path: Path, config: Config, plan: Plan, content: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint with its weights.

    Args:
        path: of the checkpoint, for messages.
        config: of the run, or with other values under ``predict``.
        plan: of the run.
        content: of the checkpoint.

    Raises:
        UserError: if the weights are not those of the network that config and plan describe.
    """
    with damage_explained(path):
        # Of a damaged plan the network may be larger than any memory: on this device it is empty.
        with torch.device("meta"):
            _require_alike(build_network(config, plan).state_dict(), content["network"])
        factors = np.array(plan.divisors)
        if isinstance(config.network, UNet3dConfig) and np.mod(plan.patch_size, factors).any():
            raise ValueError("its patches are no multiples of its strides")
        network = build_network(config, plan)
        network.load_state_dict(content["network"])
        return network


def require_plain_records(path: Path) -> None:
    """Require that a file is what PyTorch writes, whose records are as long as they are in it.

    A packed record of a few kB may stand for gigabytes.

    Raises:
        ValueError: if it is not.
        BadZipFile: if it is no file of records at all.
    """
    with zipfile.ZipFile(path) as records:
        described = records.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in described):
        raise ValueError("its records are packed")
    if sum(one.file_size for one in described) > path.stat().st_size:
        raise ValueError("its records are longer than the file")


def require_finite(weights: dict[str, Tensor]) -> None:
    """Require that weights are finite numbers, each of which is stored.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if they are not such numbers.
    """
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise TypeError(f"the weight {name} does not hold floating-point numbers")
        # Fewer numbers can be stored than a tensor has, which then stand in many places.
        if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise ValueError(f"the weight {name} is larger than what is stored of it")
        if not weight.isfinite().all():
            raise ValueError(f"the weight {name} holds numbers that are not finite")


def _require_alike(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    if missing := wanted.keys() ^ given.keys():
        raise ValueError(f"its weights are of another network, such as {min(missing)}")
    for name, weight in wanted.items():
        if weight.shape != given[name].shape:
            raise ValueError(
                f"the weight {name} has shape {tuple(given[name].shape)} where the network has "
                f"{tuple(weight.shape)}"
            )


def find_checkpoint(path: Path) -> Path:
    """The checkpoint to predict with: ``path`` itself, or the best one of a run folder.

    Raises:
        UserError: if there is none.
    """
    if path.is_file():
        return path
    for name in ("best.pt", "last.pt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise UserError(
        f"{path} holds no checkpoint" if path.is_dir() else f"{path} does not exist",
        legal="a run folder with checkpoints/best.pt or checkpoints/last.pt, or a checkpoint file",
    )


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "seg3d": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "monai": metadata.version("monai"),
        "numpy": np.__version__,
    }


def seed_random_states(seed: int) -> None:
    """Put Python, NumPy and PyTorch where a new run with a seed begins."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def restore_random_states(content: dict[str, Any]) -> None:
    """Put Python, NumPy and PyTorch where they were when the checkpoint was written."""
    states = content["random"]
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, words, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _alike(value: Any) -> Any:
    """The same value; if equal, of the same bytes, wherever its parts come from.

    What an object is met with again is written as a reference, and equal texts may be one object,
    or two if one of them was read from a file.
    """
    if type(value) is str:
        return sys.intern(value)
    if type(value) is dict:
        return {_alike(key): _alike(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_alike, value))
    return value


def _random_states() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    kind, numpy_words, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, [int(word) for word in numpy_words], position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
