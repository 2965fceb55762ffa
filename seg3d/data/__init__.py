"""From files on disk to patches for the network."""
