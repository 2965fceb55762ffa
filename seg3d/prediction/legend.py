"""What the values of predictions mean, in a file beside them: evaluation asks for it.

It has the form of ``data.labels`` in a config, and of ``labels`` in nnU-Net's ``dataset.json``:
``{"labels": {"background": [0], "bones": [25, 26], "ignore": [255], "rest": "background"}}``.
Of regions, ``regions_class_order`` beside ``labels`` has the values that are written for them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write
from seg3d.config import REST_NAME
from seg3d.plan import IGNORE_NAME, Plan

# In a folder of predictions; beside a prediction that is alone it follows the stem of its name.
LEGEND = "labels.json"
ORDER = "regions_class_order"


def legend(plan: Plan) -> dict[str, Any]:
    """Class names and all values that stand for them, the value that is written first."""
    labels: dict[str, Any] = {one.name: list(one.values) for one in plan.classes}
    if plan.regions is not None:
        labels = {plan.parts[0].name: [0], **labels}
    if plan.ignore:
        labels[IGNORE_NAME] = list(plan.ignore)
    if plan.rest is not None:
        labels[REST_NAME] = plan.rest
    order = {} if plan.regions is None else {ORDER: list(plan.regions)}
    return {"labels": labels, **order}


def write_legend(path: Path, plan: Plan) -> None:
    """Write the legend of a network's predictions."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(legend(plan), ensure_ascii=False), encoding="utf-8")


def require_same_legend(path: Path, plan: Plan) -> None:
    """Require that there is no legend yet, or the same.

    Raises:
        UserError: if the values of the predictions there mean something else, or the file cannot
            be read.
    """
    if not path.exists():
        return
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == legend(plan)
    except (OSError, ValueError):
        same = False
    if not same:
        raise UserError(
            f"{path} says that label values there have another meaning than this network's",
            fix=f"give another --output, or remove {path.name} if what it is about is gone",
        )
