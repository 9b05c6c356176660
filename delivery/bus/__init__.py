"""Messages between nodes: Redis or in process, at most once."""
