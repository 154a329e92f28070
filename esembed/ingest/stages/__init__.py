"""The stages of the ingest pipeline, in the order a record passes them."""
