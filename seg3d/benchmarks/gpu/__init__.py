"""What a GPU makes of the engine: whether it is right there, how fast, and in what memory."""
