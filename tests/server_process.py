"""A server process that a test may freeze, thaw, kill and start again; waiting for conditions."""

from delivery.bench.faults.servers import START_TIMEOUT, STOP_TIMEOUT, Server, wait_until

__all__ = ["START_TIMEOUT", "STOP_TIMEOUT", "Server", "wait_until"]
