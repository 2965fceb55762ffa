"""The commands ``seg3d config list`` and ``seg3d config show``."""

from __future__ import annotations

import click

from seg3d.cli.options import debug_option


@click.group()
def config() -> None:
    """List and show the configs that ship with seg3d.

    \b
    Example:
      seg3d config list
      seg3d config show medical_ct > my.yaml
      seg3d train my.yaml --data Task09_Spleen
    """


@config.command("list")
@debug_option
def list_configs() -> None:
    """List the configs, with what they are for.

    \b
    Example:
      seg3d config list
    """
    from seg3d.config.shipped import shipped_configs

    configs = shipped_configs()
    width = max(map(len, configs))
    for name, file in configs.items():
        heading = file.read_text(encoding="utf-8").splitlines()[0]
        click.echo(f"{name:{width}}  {heading.removeprefix('# ')}")


@config.command()
@click.argument("name")
@debug_option
def show(name: str) -> None:
    """Print the config NAME, comments included: to be written to a file and changed.

    \b
    Example:
      seg3d config show medical_ct > my.yaml
    """
    from seg3d.config.shipped import shipped_config

    click.echo(shipped_config(name).read_text(encoding="utf-8"), nl=False)
