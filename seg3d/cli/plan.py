"""The command ``seg3d plan``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, device_option, init_from_option, path, text_path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("config", type=path)
@click.option("--data", type=text_path, help="Dataset folder or list file; overrides data.folder.")
@click.option("--memory", help="8GiB, or auto: what there is; overrides plan.memory.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a config key.")
@init_from_option
@click.option("--output", type=text_path, help="File to write the plan to: YAML, to be changed.")
@device_option
@segy_options
@debug_option
def plan(
    config: Path,
    data: Path | None,
    memory: str | None,
    overrides: tuple[str, ...],
    init_from: Path | None,
    output: Path | None,
    device: str,
) -> None:
    """Show what training would do with the data, and the memory that it would take.

    With --memory, the largest patch is found with which training fits. The memory is predicted, so
    that any machine plans for any other; on a GPU that has so much, the plan is tried as well.

    \b
    Example:
      seg3d plan medical_ct --data Task09_Spleen --memory 8GiB
      seg3d train medical_ct --data Task09_Spleen --set plan.memory=8GiB
      seg3d plan medical_ct --data Task09_Spleen --output plan.yaml
      seg3d train medical_ct --data Task09_Spleen --set plan.file=plan.yaml
    """
    from seg3d.common.device import choose_device
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.config import ignored_overrides, load_config, path_override
    from seg3d.training.planning import show_plan

    if memory is not None:
        overrides += (f"plan.memory={memory}",)
    console = make_console()
    paths = {"data.folder": data, "train.init_from": init_from}
    given = (one for key, file in paths.items() for one in path_override(key, file))
    settings = load_config(config, (*overrides, *given))
    for note in ignored_overrides(settings, overrides):
        print_as_is(console, f"Note: {note}")
    show_plan(settings, choose_device(device), console, output)
