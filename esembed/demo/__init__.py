"""The first run: the docstrings of the Python standard library, searched four ways."""
