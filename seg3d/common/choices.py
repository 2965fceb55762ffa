"""The legal names and numbers of a sketch: the engine obeys them, the config checks them."""

# Kept bits per voxel, by the names that say them.
FIXED_BITS = {"onebit": 1, "2bit": 2, "4bit": 4}
# The published probes.
PROBES = ("independent", "multichannel", "orthogonal")
# Those that see a tensor brick by brick, and do not need it as a whole.
OF_BRICKS = ("rotated", *FIXED_BITS)
SKETCHES = (*OF_BRICKS, *PROBES, "exact")
# Per voxel, for "rotated".
BITS = (0.125, 0.25, 0.5, 1, 2, 4, "exact")
