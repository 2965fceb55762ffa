"""The command line: parsing and printing only.

Heavy imports stand inside the commands, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import io
import sys

import click

from seg3d.cli.check import check
from seg3d.cli.check_gpu import check_gpu
from seg3d.cli.config import config
from seg3d.cli.convert import convert
from seg3d.cli.demo import demo
from seg3d.cli.evaluate import evaluate
from seg3d.cli.exit_status import Commands
from seg3d.cli.import_model import import_model
from seg3d.cli.info import info
from seg3d.cli.layers import layers
from seg3d.cli.options import debug_option
from seg3d.cli.plan import plan
from seg3d.cli.predict import predict
from seg3d.cli.synth import synth
from seg3d.cli.train import train
from seg3d.common.version import __version__


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="seg3d")
@debug_option
def main() -> None:
    """Segment 3D volumes with U-Nets whose training fits into little memory.

    \b
    Try it:            seg3d demo
    Your own volumes:  seg3d check Task09_Spleen
                       seg3d train medical_ct --data Task09_Spleen
                       seg3d predict runs/medical_ct new_scans/ --output predictions/
                       seg3d evaluate predictions/ references/
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal lacks is shown by its number, as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")


COMMANDS = (
    check, plan, train, predict, evaluate, import_model, convert, config, layers, synth, demo, info,
    check_gpu,
)  # fmt: skip
for command in COMMANDS:
    main.add_command(command)
