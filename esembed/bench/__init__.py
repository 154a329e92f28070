"""Measurements, each a command: ``python -m esembed.bench.NAME``."""
