"""What ``--help`` shows can be typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from seg3d.cli import main
from seg3d.config.shipped import find_config

# What the dependencies bring along.
OTHER_PROGRAMS = {"tensorboard"}


def commands(command: click.Command = main, name: str = "seg3d") -> Iterator[tuple[str, str]]:
    """The name of every command, groups included, and its help text."""
    yield name, command.get_help(click.Context(command, info_name=name))
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            yield from commands(one, f"{name} {inner}")


def examples(text: str) -> list[str]:
    """The lines of a help text that are commands."""
    lines = (line.strip().split(":  ")[-1].strip() for line in text.splitlines())
    return [line for line in lines if line.split(" ")[0] in {"seg3d", "torchrun", *OTHER_PROGRAMS}]


ALL = dict(commands())


def parsed(words: list[str]) -> click.Context:
    """The command that the words after ``seg3d`` call, its arguments checked but not yet used."""
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    return command.make_context(command.name, words)


@pytest.mark.parametrize("name", ALL)
def test_every_command_shows_itself_at_work(name: str) -> None:
    assert any(line.startswith(name) for line in examples(ALL[name].split("Options:")[0]))


@pytest.mark.parametrize("line", sorted({line for text in ALL.values() for line in examples(text)}))
def test_every_example_can_be_typed_in_any_folder(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split(" > ")[0])
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[0] in OTHER_PROGRAMS:
        return
    with parsed(words[1:]) as context:
        config = context.params.get("config")
        # A file that another example makes is no shipped one.
        if config and config.name != "my.yaml":
            find_config(config)
