"""From a config and a dataset to a trained network."""
