"""The fast path: sockets, sessions, the HTTP API and the bus between nodes."""
