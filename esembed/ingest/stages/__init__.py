"""The stages of the ingest pipeline, in the order a record passes them: prepare, lookup, chunk, encode,
serialize, send.

Each is built from a plan, capabilities, options and what it needs. It pickles as what it was built from, does
nothing before ``start`` (no thread, no request, no file), and its report merges with that of another
instance: so a runner may put stages into processes or machines of its own. What they share is the
:class:`~esembed.ingest.outcomes.Outcomes` that counts where records leave.
"""
