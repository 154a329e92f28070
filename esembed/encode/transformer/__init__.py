"""Dense, sparse and combined encoders over a transformer."""
