"""Learning from judgments and behavior: the data for it, out of the index and its users."""
