"""How the intensities of the channels are normalised."""

from __future__ import annotations

import numpy as np

from seg3d.config import Config
from seg3d.plan.fingerprint import CaseFingerprint, Source
from seg3d.plan.plan import ChannelIntensity

# nnU-Net's threshold: images this empty are normalised over their nonzero voxels.
MOSTLY_EMPTY = 0.25


def channel_intensities(
    config: Config, dataset: Source, fingerprints: dict[str, CaseFingerprint]
) -> list[ChannelIntensity]:
    """What the config says, or the foreground of all cases, for each channel."""
    samples = np.concatenate([fingerprint.foreground for fingerprint in fingerprints.values()])
    nonzero = (
        np.median([fingerprint.zero_fraction for fingerprint in fingerprints.values()])
        > MOSTLY_EMPTY
    )
    count = samples.shape[1]
    names = dataset.channels or tuple(f"channel {index}" for index in range(count))
    intensities = []
    for name, values in zip(names, samples.T.astype(np.float64), strict=True):
        kind = config.preprocess.intensity
        if kind == "auto":
            kind = "ct" if name.strip().lower() == "ct" else "zscore"
        if kind == "ct":
            low, high = np.percentile(values, config.preprocess.percentiles)
            clipped = values.clip(low, high)
            intensities.append(
                ChannelIntensity(
                    name=name,
                    kind="ct",
                    low=float(low),
                    high=float(high),
                    mean=float(clipped.mean()),
                    std=float(max(clipped.std(), 1e-6)),
                )
            )
        else:
            masked = bool(nonzero) and kind == "zscore"
            intensities.append(ChannelIntensity(name=name, kind=kind, nonzero=masked))
    return intensities
