"""The tables of the compliance log. Private to the ledger; migrations build the same schema.

Owns: names, types and indexes, as ``tables`` does for the rest.
"""

from __future__ import annotations

import sqlalchemy as sa

from delivery.ledger.sql.columns import Big, Id, Name, created, metadata

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    created("at"),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("event_id", Id, nullable=False),  # all zeros for a row about no event
    # The user's keyed pseudonym; the id itself in rows of the first release, which have no number.
    sa.Column("user_id", Name, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    # Written by the first release's sealer: the row's number in its chain of plain hashes.
    sa.Column("seal", Big, unique=True),
    sa.Column("previous_hash", sa.String(64)),
    sa.Column("hash", sa.String(64)),
    # Gapless, from ``audit_counter``; the row's code, and the key that it was made with.
    sa.Column("number", Big),
    sa.Column("commitment", sa.String(64)),
    sa.Column("key", sa.String(16)),
    sa.Column("mac", sa.String(64)),
)
sa.Index("ix_audit_log_number", audit_log.c.number, unique=True)
sa.Index(
    "ix_audit_log_unnumbered",
    audit_log.c.id,
    postgresql_where=audit_log.c.number.is_(None),
    sqlite_where=audit_log.c.number.is_(None),
)
sa.Index(
    "ix_audit_log_unsealed",
    audit_log.c.id,
    postgresql_where=audit_log.c.seal.is_(None),
    sqlite_where=audit_log.c.seal.is_(None),
)

# The keyed chain: one row for each numbered row of the log, inserted by the sealer.
audit_seals = sa.Table(
    "audit_seals",
    metadata,
    sa.Column("number", Big, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("mac", sa.String(64), nullable=False),
    sa.Column("key", sa.String(16), nullable=False),
)

# What an erasure deletes: the names behind pseudonyms, and facts that may describe a person. The
# log has their codes only, so that its chain stays whole without them.
audit_subjects = sa.Table(
    "audit_subjects",
    metadata,
    sa.Column("subject", Name, primary_key=True),
    sa.Column("user_id", Name, nullable=False),
)
audit_details = sa.Table(
    "audit_details",
    metadata,
    sa.Column("number", Big, primary_key=True, autoincrement=False),
    sa.Column("subject", Name, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
)
sa.Index("ix_audit_details_subject", audit_details.c.subject)

# One row: the last number that was given, and the last that was sealed, each with its code.
audit_counter = sa.Table(
    "audit_counter",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", Big, nullable=False),
    sa.Column("mac", sa.String(64)),
    sa.Column("key", sa.String(16)),
    sa.Column("sealed", Big, nullable=False),
    sa.Column("sealed_mac", sa.String(64)),
    sa.Column("sealed_key", sa.String(16)),
    # Whether the tables were in use when the migration made this one: then processes of the first
    # release may still write rows without a number.
    sa.Column("upgraded", sa.Boolean(create_constraint=False), nullable=False),
)
sa.event.listen(
    audit_counter,
    "after_create",
    sa.DDL(  # type: ignore[no-untyped-call]
        "INSERT INTO audit_counter (id, number, sealed, upgraded) VALUES (1, 0, 0, false)"
    ),
)

# The end of the first release's chain (one row).
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seal", Big, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
