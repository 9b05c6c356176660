"""The tests: `unit` mirrors `delivery/`; most other folders use the servers of `servers.py`."""
