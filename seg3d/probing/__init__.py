"""Probed layers: exact forward pass, gradients from bits and small random sketches.

What is cut into what, here and nowhere else:

========  ====================================================================================
brick     up to 128 voxels of one channel that are rotated and coded together (`bricks`)
layer     all bricks of a sample that begin at the same depth
lot       as many bricks as are worked on at a time, whole layers of them (`work_sizes`)
slab      rows along depth with which a convolution is done at a time (`slabs`)
record    what a layer of the network keeps of its input for the backward pass (`records`)
sketch    the part of a record that is random: codes of bricks, or products with probes
========  ====================================================================================

Files of one volume have slabs and regions of their own: see `seg3d.io`.
"""

from seg3d.common.choices import BITS, SKETCHES
from seg3d.probing.bits import Chosen, choose_bits, first_bits, set_bits
from seg3d.probing.convert import ProbeReport, probe_model
from seg3d.probing.convolutions import ProbedConv3d, ProbedConvTranspose3d
from seg3d.probing.keys import ProbeKey
from seg3d.probing.names import make_sketch
from seg3d.probing.noise import gradient_noise
from seg3d.probing.norms import ProbedBatchNorm3d, ProbedGroupNorm, ProbedInstanceNorm3d
from seg3d.probing.probed_layer import set_probe_step
from seg3d.probing.sketches import Sketch

__all__ = [
    "BITS",
    "SKETCHES",
    "Chosen",
    "ProbeKey",
    "ProbeReport",
    "ProbedBatchNorm3d",
    "ProbedConv3d",
    "ProbedConvTranspose3d",
    "ProbedGroupNorm",
    "ProbedInstanceNorm3d",
    "Sketch",
    "choose_bits",
    "first_bits",
    "gradient_noise",
    "make_sketch",
    "probe_model",
    "set_bits",
    "set_probe_step",
]
