"""Measures of agreement that look beyond single voxels, or at scores instead of labels."""
