"""What is wrong or odd in a dataset, and a repaired copy of it.

    find_dataset ─► `check_dataset` ─► `Report` ─► `words`, `json_report`
                      └ `look_at_case`, in threads      └─► `repair_dataset` ─► a copy

What training refuses is an error here, in the same words; what it notes is a warning.
"""

from seg3d.checking.dataset import Report, check_dataset
from seg3d.checking.problems import Kind, Level, Problem

__all__ = ["Kind", "Level", "Problem", "Report", "check_dataset"]
