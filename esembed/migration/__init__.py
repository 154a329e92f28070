"""Moving an index to another plan: options, lock, copying."""
