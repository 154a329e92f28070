"""Leg weights of the default query, estimated from known items."""
