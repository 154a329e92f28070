"""A query, a plan and options to request bodies, and answers to hits; pure."""
