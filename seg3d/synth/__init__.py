"""Synthetic seismic volumes with known faults and layers."""
