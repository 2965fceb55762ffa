"""The command ``seg3d check``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from seg3d.cli.options import debug_option, path
from seg3d.cli.segy_options import segy_options
from seg3d.common.errors import UserError

STDOUT = "-"


@click.command()
@click.argument("data", type=path)
@click.option("--config", type=path, help="Config whose data.labels and data.files hold.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a data key.")
@click.option(
    "--json",
    "json_to",
    metavar="[FILE]",
    is_flag=False,
    flag_value=STDOUT,
    help="Write all that was found to FILE; without FILE, print it in place of the table.",
)
@click.option("--fix", type=path, metavar="DIR", help="Write a repaired copy of DATA to DIR.")
@click.option("--nan", type=float, metavar="VALUE",
              help="With --fix, what takes the place of NaN and infinities in images.")  # fmt: skip
@segy_options
@debug_option
@click.pass_context
def check(
    ctx: click.Context,
    data: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    json_to: str | None,
    fix: Path | None,
    nan: float | None,
) -> None:
    """Read every case of DATA and say what is wrong or odd, and what to do about it.

    DATA is a folder or list, as for training. What training refuses is an error; a warning is what
    it would train on and should be looked at.

    The exit status is 0 if there is neither, 1 if there are warnings, 2 if there are errors.

    With --fix, the copy has labels along the axes of their image and with its affine, stored as
    whole numbers, and 0/1 for 0/255. DATA stays as it is. The copy is checked in turn, and the exit
    status is that of the copy.

    \b
    Example:
      seg3d check Task09_Spleen
      seg3d check Task09_Spleen --json report.json
      seg3d check Task09_Spleen --fix Task09_repaired --nan 0
    """
    if nan is not None and not math.isfinite(nan):
        raise UserError("--nan is no number to write", given=nan, legal="such as 0 or -1024")
    if nan is not None and fix is None:
        raise UserError("--nan says what a repaired copy holds", fix="add --fix DIR")
    if json_to not in (None, STDOUT) and Path(json_to).is_dir():
        raise UserError(f"--json: {json_to} is a folder", fix="name a file, such as report.json")
    from seg3d.checking.copy import require_copyable
    from seg3d.checking.dataset import look_at_all
    from seg3d.checking.json_report import as_json, save_json
    from seg3d.checking.repair import repair_dataset
    from seg3d.checking.words import case_table, problem_lines, repair_lines, summary
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.config import config_from_tree, load_config
    from seg3d.data.layouts import describe, find_dataset

    settings = load_config(config, overrides) if config else config_from_tree({}, overrides)
    dataset = find_dataset(data, settings.data.labels, settings.data.files)
    if fix is not None:
        require_copyable(dataset, fix)
    console = make_console(quiet=json_to == STDOUT)
    print_as_is(console, describe(dataset))
    report = look_at_all(dataset, settings, console)
    console.print(case_table(report))
    for line in problem_lines(report.problems):
        print_as_is(console, line)
    print_as_is(console, summary(report))
    repaired = None if fix is None else repair_dataset(report, settings, fix, nan, console)
    if repaired is not None:
        for line in repair_lines(repaired):
            print_as_is(console, line)
    if json_to is not None:
        text = as_json(report, None if repaired is None else repaired.as_json())
        if json_to == STDOUT:
            click.echo(text)
        else:
            save_json(text, Path(json_to))
            print_as_is(console, Path(json_to))
    ctx.exit((report if repaired is None else repaired.left).level)
