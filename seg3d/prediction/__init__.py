"""From a checkpoint and volumes of any size to label volumes."""
