"""The live path: sockets, sessions, presence of users and pushes to their connections."""
