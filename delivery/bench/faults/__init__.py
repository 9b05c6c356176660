"""The fault benchmark of ``delivery bench faults``.

Owns: a whole cluster of its own (PostgreSQL, Redis, gateways, workers, beat), a paced load, the
faults, and the audit of every event against the ledger and against what the handlers saw. Never
does: touch servers or processes that it did not start.
"""
