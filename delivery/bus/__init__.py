"""Messages between nodes, at most once: over Redis pub/sub, or within one process."""
