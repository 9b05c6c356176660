"""Group commit: one thread commits the entries that the loop collects, or spools them."""
