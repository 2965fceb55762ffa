"""Checkpoints of nnU-Net's, read without running anything that stands in them.

They are pickled, and besides tensors and plain values hold a few numbers of NumPy's. Of what a
pickle may ask for, PyTorch's reader knows tensors alone; here it gets stand-ins for NumPy's numbers
too, which make plain ones. Whatever else is asked for is refused.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg3d.common.errors import UserError
from seg3d.common.plain_values import require_moderate
from seg3d.runs.checkpoint import damage_explained, require_finite, require_plain_records

# Number types that NumPy's scalars in a checkpoint may have, as a pickle names them.
NUMBERS = re.compile("[biuf][1248]")


@dataclass(frozen=True)
class NnunetCheckpoint:
    """What prediction needs of a checkpoint.

    Attributes:
        configuration: that was trained, such as ``3d_fullres``.
        trainer: its name.
        epochs: that were trained.
        mirror_axes: along which predictions may be mirrored.
        weights: of the network, by nnU-Net's names.
    """

    configuration: str
    trainer: str
    epochs: int
    mirror_axes: tuple[int, ...]
    weights: dict[str, Tensor]


def read_checkpoint(path: Path) -> NnunetCheckpoint:
    """Read a checkpoint.

    Raises:
        UserError: if it is damaged, is none of nnU-Net's, or holds more than it should.
    """
    with damage_explained(path, "of nnU-Net"):
        require_plain_records(path)
        content = _content(path)
        weights, init = content["network_weights"], content["init_args"]
        axes = content.get("inference_allowed_mirroring_axes")
        described = (init["configuration"], content.get("trainer_name", "nnUNetTrainer"))
        if not all(isinstance(one, str) for one in described) or not isinstance(weights, dict):
            raise TypeError("it does not describe a network")
        require_moderate(described)
        require_finite(weights)
        axes = tuple(axes or ())
        if not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):
            raise ValueError("it is mirrored along axes that there are not")
        return NnunetCheckpoint(
            *described, int(content.get("current_epoch", 0)), tuple(map(int, axes)), _named(weights)
        )


def _content(path: Path) -> dict[str, Any]:
    allowed: list[Any] = [
        (_Type, "numpy.dtype"),
        (_number, "numpy.core.multiarray.scalar"),
        (_number, "numpy._core.multiarray.scalar"),
        (_bytes, "_codecs.encode"),
    ]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Mapped, lest the optimiser's state, as large as the weights, is read too.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} asks for code to be run, and is not read",
                given=found[1],
                legal="tensors, plain values and numbers of NumPy's, as nnU-Net writes them",
                fix="if you trust it, load it in nnU-Net and save its network_weights, init_args, "
                "trainer_name and inference_allowed_mirroring_axes with torch.save",
            ) from error
        raise
    if not isinstance(content, dict):
        raise TypeError(f"holds a {type(content).__name__}")
    return content


def _named(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers of a network put in front of the names."""
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): weight
        for name, weight in weights.items()
    }


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise ValueError("a number is of a strange type")
        self.dtype = np.dtype(f"<{name}")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|"):
            raise ValueError("a number is of a strange type")


def _number(kind: Any, content: Any) -> Any:
    """Stands for ``numpy.core.multiarray.scalar``: a plain number from its bytes."""
    if not isinstance(kind, _Type) or not isinstance(content, bytes):
        raise ValueError("a number is of a strange type")
    (number,) = np.frombuffer(content, kind.dtype).tolist()
    return number


def _bytes(text: Any, encoding: Any = None) -> bytes:
    """Stands for ``codecs.encode``, by which old pickles make bytes of texts."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are written in a strange way")
    return text.encode("latin1")
