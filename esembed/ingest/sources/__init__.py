"""Readers, one file for each family of formats. Each yields documents, or what was unreadable."""
