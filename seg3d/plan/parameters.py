"""Parameters of a network by patterns over their names: what is frozen, what learns slower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from seg3d.common.errors import UserError

# Names that a message shows.
SHOWN = 8


def freeze(network: nn.Module, patterns: Iterable[str], key: str = "train.freeze") -> None:
    """Let parameters stay as they are.

    Args:
        network: whose parameters ask for no gradients any more.
        patterns: over their names; ``*`` stands for anything.
        key: what gave the patterns, for messages.

    Raises:
        UserError: if a pattern fits no parameter, or nothing is left to be trained.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        for name in _fitting(parameters, pattern, key):
            parameters[name].requires_grad_(False)
    if not any(one.requires_grad for one in parameters.values()):
        raise UserError(f"{key} leaves nothing to be trained", given=", ".join(patterns))


def by_factor(
    network: nn.Module, factors: Mapping[str, float], key: str = "train.lr_factors"
) -> dict[float, list[nn.Parameter]]:
    """The parameters that are trained, by the factor of their learning rate.

    Args:
        network: whose parameters are meant; they stay in their order.
        factors: by patterns over their names; the first that fits is taken, and 1 where none does.
        key: what gave the factors, for messages.

    Raises:
        UserError: if a pattern fits no parameter.
    """
    parameters = dict(network.named_parameters())
    of_name: dict[str, float] = {}
    for pattern, factor in factors.items():
        for name in _fitting(parameters, pattern, key):
            of_name.setdefault(name, factor)
    found: dict[float, list[nn.Parameter]] = {}
    for name, one in parameters.items():
        if one.requires_grad:
            found.setdefault(of_name.get(name, 1.0), []).append(one)
    return found


def _fitting(names: Iterable[str], pattern: str, key: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        shown = [*names]
        more = f", and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        raise UserError(
            f"{key} names a parameter that is not there",
            given=pattern,
            legal=", ".join(shown[:SHOWN]) + more,
        )
    return found
