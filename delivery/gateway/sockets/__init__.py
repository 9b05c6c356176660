"""Sockets of clients: WebSockets and event streams, from the upgrade to the end, and the frames
read from them. What is sent, and when, a ``Connection`` decides."""
