"""A small real problem for benchmarks: subjects made from the T1 template that ships along.

One template bent into subjects is not a cohort: results say how methods compare, not how well
they would do in the clinic.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from seg3d.benchmarks.training import Subject, Task
from seg3d.common.resources import resource
from seg3d.data.cohort import make_subject
from seg3d.io import read_labels, read_volume


def subject(number: int) -> Subject:
    """A subject by its number; the same number gives the same subject."""
    return Subject.of_arrays(*make_subject(*_template(), seed=number))


@cache
def _template() -> tuple[np.ndarray, np.ndarray]:
    folder = resource("data/brain")
    image = read_volume(folder / "template_t1.nii.gz")
    labels = read_labels(folder / "template_labels.nii.gz")
    return np.asarray(image.array)[0], np.asarray(labels.array)[0]


BRAIN = Task(("CSF", "grey matter", "white matter"), subject)
