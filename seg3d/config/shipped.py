"""Configs that ship with seg3d, by name."""

from __future__ import annotations

import os
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.common.resources import resource

FOLDER, ENDING = "configs", ".yaml"


def shipped_configs() -> dict[str, Path]:
    """The files of all shipped configs by their names, such as ``medical_ct``."""
    return {file.stem: file for file in sorted(resource(FOLDER).glob(f"*{ENDING}"))}


def shipped_config(name: str | Path) -> Path:
    """The file of a shipped config.

    Args:
        name: such as ``medical_ct``, ``configs/medical_ct`` or ``configs/medical_ct.yaml``.

    Raises:
        UserError: if no such config ships with seg3d.
    """
    asked, shipped = Path(name), shipped_configs()
    in_folder = asked.parent in (Path(), Path(FOLDER))
    if in_folder and asked.name.removesuffix(ENDING) in shipped:
        return shipped[asked.name.removesuffix(ENDING)]
    raise UserError("no config of this name ships with seg3d", given=name, legal=", ".join(shipped))


def find_config(name: str | Path) -> Path:
    """The file that is meant by ``name``: one that is there, else a shipped config.

    Args:
        name: a path, with or without ``.yaml``, or what `shipped_config` takes. Your own file comes
            first.

    Raises:
        UserError: if there is no such file and no shipped config of that name.
    """
    asked = Path(name)
    for own in (asked, asked.with_name(asked.name + ENDING)) if asked.name else ():
        # A pipe will do as well; a name that the system cannot have is none that is there.
        if os.path.exists(own) and not os.path.isdir(own):
            return own
    try:
        return shipped_config(asked)
    except UserError as error:
        raise UserError(
            f"config {name} does not exist or is not a file",
            legal=f"a YAML file, or one of {', '.join(shipped_configs())}",
            fix="seg3d config show NAME > my.yaml makes a file to start from",
        ) from error
