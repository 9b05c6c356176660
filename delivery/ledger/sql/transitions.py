"""The lifecycle's table as SQL: a state is written through a transition of the table only.

Owns: the WHERE and the new value of every change of state in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from delivery.domain import lifecycle
from delivery.domain.lifecycle import Cause, State
from delivery.errors import IllegalTransition
from delivery.ledger.sql.tables import events

ENDED_FOR_FEEDS = (State.CONFIRMED.value, State.EXPIRED.value)


def is_one_of(states: Iterable[State]) -> sa.ColumnElement[bool]:
    """The event is in one of ``states``; spelled out, so that the statement's text is constant."""
    return sa.or_(*(events.c.state == value for value in sorted(one.value for one in states)))


def before(cause: Cause) -> sa.ColumnElement[bool]:
    """The event is in a state that ``cause`` may change."""
    return is_one_of(lifecycle.sources(cause))


def after(cause: Cause) -> str:
    """The state to which ``cause`` leads from every state that it may change.

    Raises:
        IllegalTransition: it leads to several states (a confirmation does), so it is not one value.
    """
    targets = {lifecycle.transition(state, cause) for state in lifecycle.sources(cause)}
    if len(targets) != 1:
        raise IllegalTransition(f"{cause} leads to {len(targets)} states; decide row by row")
    return targets.pop().value


def on_chain() -> sa.ColumnElement[bool]:
    """The event is on the chain, so that a step of it may be recorded."""
    return events.c.state == State.FALLING_BACK.value


def not_after_expiry(due_at: sa.ColumnElement[datetime]) -> sa.ColumnElement[datetime]:
    """The earlier of ``due_at`` and the event's expiry: an event is never swept later than it
    expires."""
    return sa.case((events.c.expires_at < due_at, events.c.expires_at), else_=due_at)


def unconfirmed() -> sa.ColumnElement[bool]:
    """The event is neither confirmed nor expired. In the words of the partial index and without
    bound values, which planners do not match with an index."""
    return events.c.state.notin_([sa.literal_column(f"'{state}'") for state in ENDED_FOR_FEEDS])
