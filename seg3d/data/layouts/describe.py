"""What was recognised, in words."""

from __future__ import annotations

from seg3d.data.cases import Dataset

SHOWN = 10


def describe(dataset: Dataset) -> str:
    """Say in a few lines what was recognised and what was not used."""
    lines = [
        f"dataset: {dataset.source} ({dataset.layout})",
        f"  cases: {len(dataset.cases)} with label, {len(dataset.test)} for testing",
    ]
    parts = [case.split for case in dataset.cases]
    if "val" in parts:
        lines.append(f"  split: {parts.count('train')} train, {parts.count('val')} val, as stated")
    files = len(dataset.cases[0].images)
    names = f": {', '.join(dataset.channels)}" if dataset.channels else ""
    lines.append(f"  images: {files} file{'s' if files > 1 else ''} per case{names}")
    if dataset.labels:
        values = (
            f"{name} {'+'.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in dataset.labels.items()
        )
        lines.append(f"  labels: {', '.join(values)}")
    if dataset.left_out:
        lines.append(f"  left out: {len(dataset.left_out)}")
        lines += [f"    {what}: {reason}" for what, reason in dataset.left_out[:SHOWN]]
        if len(dataset.left_out) > SHOWN:
            lines.append(f"    and {len(dataset.left_out) - SHOWN} more")
    return "\n".join(lines)
