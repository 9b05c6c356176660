"""The only place that wires parts together, and reads settings to do it.

``embedded`` runs everything in one process, ``gateway`` and ``workers`` the parts of a cluster,
``mount`` puts a gateway into somebody's aiohttp application, ``probes`` looks for what is wrong.
Each command imports the one it needs.
"""
