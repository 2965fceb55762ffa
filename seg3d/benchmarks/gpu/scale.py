"""How large everything is that a GPU is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from seg3d.benchmarks.baselines import CHANNELS
from seg3d.benchmarks.gpu.ways import AUTO, COMPILED, LAST, OURS, PLAIN, SMALL, STAGES, Net

Volume = tuple[int, int, int, int, int]
# Residual blocks of nnU-Net's ResEnc presets, per level.
RESIDUAL = (1, 3, 4, 6, 6, 6)
# Shapes whose bricks are of 128 voxels; of 120, with planes to spare; of 110; that stick out.
ODD_SHAPES: tuple[Volume, ...] = (
    (2, 3, 4, 16, 16),
    (1, 6, 6, 5, 6),
    (2, 5, 2, 10, 11),
    (2, 5, 3, 13, 11),
)


@dataclass(frozen=True)
class Steps:
    """Training steps to be timed.

    Attributes:
        size: edge of the cubes, in voxels.
        batch: number of cubes.
        rounds: in each of which every method makes a step.
        methods: names of ways.
    """

    net: Net
    size: int
    batch: int
    rounds: int
    methods: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.net.name}, {self.size}³, batch of {self.batch}"


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        shapes: whose bricks do not divide them, for all bits and number types.
        huge: a volume of more than 2³¹ elements, in bfloat16.
        first: steps that tell most.
        steps: the others.
        volume: of the passes, ``(B, C, D, H, W)``.
        limits: of the memory, in GiB, under which the largest cube is looked for.
        edges: multiple of which the edge of that cube is, and the largest that is tried.
        inference: edge of a cube that a network sees as a whole.
        scan: edge of a volume that is predicted in windows, and the edge of these.
        demo: whether the demo is trained.
    """

    shapes: tuple[Volume, ...]
    huge: Volume
    first: Steps
    steps: tuple[Steps, ...]
    volume: Volume
    limits: tuple[float, ...]
    edges: tuple[int, int]
    inference: int
    scan: tuple[int, int]
    demo: bool


UNET = Net("nnU-Net's default network", CHANNELS)
RESENC = Net("ResEnc L", CHANNELS, RESIDUAL)
FULL = Scale(
    shapes=ODD_SHAPES,
    huge=(1, 32, 408, 408, 408),
    first=Steps(UNET, 128, 2, 8, (PLAIN, OURS, SMALL, AUTO)),
    steps=(
        Steps(UNET, 320, 1, 3, (PLAIN, OURS)),
        Steps(UNET, 128, 2, 8, (PLAIN, LAST, STAGES, COMPILED)),
        Steps(UNET, 512, 1, 1, (OURS,)),
        Steps(RESENC, 128, 2, 4, (PLAIN, OURS)),
        Steps(UNET, 192, 1, 4, (PLAIN, OURS, STAGES)),
    ),
    volume=(2, 32, 128, 128, 128),
    limits=(8, 16, 24),
    edges=(32, 640),
    inference=256,
    scan=(512, 128),
    demo=True,
)
# What a user waits for: the first shapes, and the first steps.
SHORT = Steps(UNET, 128, 2, 8, (PLAIN, OURS, AUTO))
_TINY = Net("a tiny network", (4, 8))
_TINY_RESIDUAL = Net("a tiny residual network", (4, 8), (1, 1))
TOY = Scale(
    shapes=ODD_SHAPES[3:],
    huge=(1, 2, 4, 8, 8),
    first=Steps(_TINY, 16, 1, 1, (PLAIN, OURS, AUTO)),
    steps=(Steps(_TINY, 16, 1, 1, (PLAIN, STAGES)), Steps(_TINY_RESIDUAL, 16, 1, 1, (PLAIN, OURS))),
    volume=(1, 2, 4, 8, 8),
    limits=(8,),
    edges=(8, 16),
    inference=16,
    scan=(24, 16),
    demo=False,
)
