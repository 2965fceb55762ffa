"""A plan as a YAML file that people read and change."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write
from seg3d.common.yaml_text import in_one_line, parse_yaml
from seg3d.config import Config
from seg3d.plan.make import with_patch
from seg3d.plan.network import require_legal_patch
from seg3d.plan.plan import ChannelIntensity, LabelClass, NnunetRules, Plan

HEAD = "The plan of a training run. A run with plan.file=FILE goes by it, as it stands then."
# Of these keys the values are sections, whose own keys are explained with the key.
INNER: dict[str, type[BaseModel]] = {
    "channels": ChannelIntensity,
    "classes": LabelClass,
    "nnunet": NnunetRules,
}


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan, each key with a comment that says what it is."""
    with atomic_write(path) as temporary:
        temporary.write_text(_text(plan), encoding="utf-8")


def load_plan(path: Path) -> Plan:
    """Read what `save_plan` has written, or what a person has made of it.

    Raises:
        UserError: if it cannot be read or is no plan, naming the keys that are wrong.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"plan.file: {path} cannot be read", given=error.strerror) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"plan.file: {path} is not valid YAML", given=error) from error
    try:
        return Plan.model_validate(tree)
    except ValidationError as error:
        mistakes = "; ".join(dict.fromkeys(map(_mistake, error.errors())))
        raise UserError(
            f"plan.file: {path} is not a plan",
            given=mistakes,
            fix="seg3d plan CONFIG --output FILE writes one",
        ) from error


def adopted(config: Config, given: Plan, made: Plan) -> Plan:
    """A plan from a file, for a dataset.

    Args:
        config: of the run; what it gives of the patches counts, not what the plan says.
        given: the plan from ``plan.file``.
        made: the plan that the dataset would have had.

    Raises:
        UserError: if the plan is for other data, or its patch does not suit its strides.
    """
    for name in ("channels", "classes", "regions", "ignore", "rest", "orientation"):
        theirs, ours = _to_agree(given, name), _to_agree(made, name)
        if theirs != ours:
            raise UserError(
                f"plan.file: {config.plan.file} is for other data: {name}",
                given=in_one_line(theirs),
                legal=in_one_line(ours),
                fix="seg3d plan CONFIG --data DATASET --output FILE makes a plan for this dataset",
            )
    plan = with_patch(config, given)
    require_legal_patch(config, plan.patch_size, plan.strides, f"patch_size in {config.plan.file}")
    return plan.model_copy(update={"dataset": made.dataset})


def _to_agree(plan: Plan, name: str) -> Any:
    """What a plan must have in common with the one for a dataset, of the key ``name``."""
    if name == "channels":
        return [one.name for one in plan.channels]
    return plan.model_dump(mode="json")[name]


def _text(plan: Plan) -> str:
    values = plan.model_dump(mode="json")
    parts = [_comment(HEAD)]
    for name, what in _described(Plan):
        inner = [f"  {key}: {said}" for key, said in _described(INNER.get(name))]
        parts.append("".join(map(_comment, [what, *inner])) + _entry(name, values[name]))
    return "\n".join(parts)


def _described(section: type[BaseModel] | None) -> list[tuple[str, str]]:
    fields = {} if section is None else section.model_fields
    return [(name, field.description) for name, field in fields.items() if field.description]


def _comment(text: str) -> str:
    indent = "  " if text.startswith(" ") else ""
    lines = textwrap.wrap(text.strip(), 95, initial_indent=indent, subsequent_indent=2 * indent)
    return "".join(f"# {line}\n" for line in lines)


def _entry(name: str, value: Any) -> str:
    """A key and its value, in one line, or in one line for each part of it."""
    if isinstance(value, list) and any(isinstance(one, list | dict) for one in value):
        return f"{name}:\n" + "".join(f"- {in_one_line(one)}\n" for one in value)
    return f"{name}: {in_one_line(value)}\n"


def _mistake(mistake: Any) -> str:
    key = ".".join(map(str, mistake["loc"]))
    said = mistake["msg"].removeprefix("Value error, ")
    return f"{key}: {said}" if key else said
