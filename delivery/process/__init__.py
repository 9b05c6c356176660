"""What a process needs around its parts: loop, supervisor, heartbeat, data directory."""
