"""The table of transitions."""

from __future__ import annotations

import itertools

import pytest

from delivery.domain.lifecycle import (
    ENDED,
    OPEN,
    TRANSITIONS,
    UNCONFIRMED,
    Cause,
    State,
    sources,
    transition,
)
from delivery.errors import IllegalTransition


@pytest.mark.parametrize(("edge", "target"), TRANSITIONS.items())
def test_every_edge_of_the_table_is_taken(edge: tuple[State, Cause], target: State) -> None:
    assert transition(*edge) is target


@pytest.mark.parametrize("edge", set(itertools.product(State, Cause)) - set(TRANSITIONS))
def test_every_other_edge_is_refused(edge: tuple[State, Cause]) -> None:
    with pytest.raises(IllegalTransition):
        transition(*edge)


def test_a_confirmation_confirms_from_every_state_but_expired() -> None:
    reached = {state: transition(state, Cause.CONFIRMATION) for state in State}
    assert reached.pop(State.EXPIRED) is State.EXPIRED
    assert set(reached.values()) == {State.CONFIRMED}


def test_a_replay_starts_anything_unconfirmed_anew() -> None:
    assert sources(Cause.REPLAY) == set(State) - {State.CONFIRMED}
    assert {TRANSITIONS[s, Cause.REPLAY] for s in sources(Cause.REPLAY)} == {State.ACCEPTED}


def test_only_events_in_the_chain_are_parked_or_die() -> None:
    assert sources(Cause.PARK) == sources(Cause.EXHAUSTED) == {State.FALLING_BACK}


def test_every_open_event_can_expire_and_nothing_else_can() -> None:
    assert sources(Cause.EXPIRE) == OPEN


def test_a_state_is_open_or_ended() -> None:
    assert set(State) == OPEN | ENDED
    assert not OPEN & ENDED


def test_dead_events_are_still_replayed_to_their_user() -> None:
    assert {state for state in State if state.is_unconfirmed} == UNCONFIRMED == OPEN | {State.DEAD}


def test_every_open_state_leads_to_an_end() -> None:
    edges = {(state, target) for (state, _), target in TRANSITIONS.items()}
    for state in OPEN:
        reached = {state}
        while more := {b for a, b in edges if a in reached} - reached:
            reached |= more
        assert reached & ENDED
