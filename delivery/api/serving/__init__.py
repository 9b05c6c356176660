"""The serving of HTTP: sockets that listen, connections that are admitted, the drain at the end."""
