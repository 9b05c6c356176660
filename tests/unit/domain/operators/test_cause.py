"""One sentence that says why an event was delivered, or was not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from delivery.domain.lifecycle import Attempt, Outcome, State
from delivery.domain.operators.cause import MAX_SENTENCE, cause_of
from delivery.domain.options import Options
from delivery.domain.records import ConfirmationRow, Stored, Timeline
from delivery.domain.users.receipts import ReceiptRow
from delivery.testing import START, make_event

LATER = START + timedelta(minutes=1)


def stored(state: State, step: str | None = None, **more: object) -> Stored:
    known = {"due_at": None, "expires_at": LATER, "generation": 2, "recorded_at": START}
    return Stored(make_event(), 1, state, step, **{**known, **more})  # type: ignore[arg-type]


def attempts(*made: tuple[str, str, str | None], generation: int = 2) -> tuple[Attempt, ...]:
    """Attempts (channel, outcome, error), a second after the other."""
    return tuple(
        Attempt(
            "id",
            generation,
            channel,
            number,
            Outcome(outcome),
            START + timedelta(seconds=number),
            error=error,
            digest_id="digest",
        )
        for number, (channel, outcome, error) in enumerate(made, 1)
    )


UNCONNECTED = ("websocket", "failed", "nobody connected")
CHAIN = (
    UNCONNECTED,
    ("database", "delivered", None),
    ("queue", "delivered", None),
    ("direct", "failed", "not connected"),
    ("email", "skipped", "no email address"),
    ("sms", "failed", "the SMS gateway answered 400, code 21610: unsubscribed recipient."),
    ("alert", "delivered", None),
)


@pytest.mark.parametrize(
    ("state", "made", "sentence"),
    [
        (
            "dead",
            CHAIN,
            "Not delivered: nobody connected; no email address; "
            "the SMS gateway answered 400, code 21610: unsubscribed recipient.",
        ),
        ("dead", (), "Not delivered."),
        (
            "dead",
            (("decision", "failed", "unforeseen KeyError"),),
            "Not delivered: an error of this service: unforeseen KeyError.",
        ),
        (
            "dead",
            (("email", "delivered", None),),
            "Not delivered: the mail went out and was not confirmed.",
        ),
        (
            "dead",
            (("sms", "unknown", "no answer"),),
            "Not delivered: the text message may have gone out: no answer.",
        ),
        ("dead", (("email", "skipped", "opted out"),), "Not delivered: the mail: opted out."),
        ("dead", (("pigeon", "failed", None),), "Not delivered: pigeon: no reason given."),
        ("expired", (UNCONNECTED,), "Not delivered before its time was over: nobody connected."),
        ("accepted", (), "Waiting for an acknowledgement."),
        ("sent", (), "Waiting for an acknowledgement."),
        ("falling_back", (UNCONNECTED,), "Not delivered yet: nobody connected; its chain begins."),
        (
            "parked",
            (UNCONNECTED, ("direct", "failed", "not connected"), ("email", "started", None)),
            "Not delivered: nobody connected; the mail is under way; "
            "it waits for its user to connect until 2026-01-01T12:01:00Z.",
        ),
    ],
)
def test_the_sentence_of_each_state(
    state: str, made: tuple[tuple[str, str, str | None], ...], sentence: str
) -> None:
    old = attempts(("direct", "failed", "of an earlier generation"), generation=1)
    assert cause_of(Timeline(stored(State(state)), old + attempts(*made), ())) == sentence


def test_the_next_step_is_named_with_its_time() -> None:
    event = stored(State.FALLING_BACK, "email", due_at=LATER)
    told = cause_of(Timeline(event, attempts(UNCONNECTED), ()))
    assert told.startswith("Not delivered yet: nobody connected; next: email, due 2026-01-01T12:01")


def test_a_held_event_says_until_when() -> None:
    event = stored(State.ACCEPTED, options=Options(not_before=LATER))
    assert cause_of(Timeline(event, (), ())).startswith("Held back until 2026-01-01T12:01")


def test_a_report_of_the_provider_counts_for_the_mail_that_went_out() -> None:
    [mail] = attempts(("email", "failed", "bounced 5.1.1: no such user"))
    bounced = Attempt(
        **{name: getattr(mail, name) for name in mail.__slots__} | {"receipt": "bounced"}
    )
    row = ReceiptRow("email", "ses", "bounced", "5.1.1", START, "digest")
    told = cause_of(Timeline(stored(State.DEAD), (bounced,), (), (row,)))
    assert told == "Not delivered: the mail bounced (5.1.1)."


@pytest.mark.parametrize(
    ("channel", "made", "sentence"),
    [
        ("websocket", (), "Delivered: ada confirmed it."),
        ("sse", (UNCONNECTED,), "Delivered: ada confirmed it; before that: nobody connected."),
        (
            "email",
            (UNCONNECTED, ("email", "delivered", None)),
            "Delivered: ada confirmed it over email; before that: nobody connected.",
        ),
    ],
)
def test_a_confirmed_event_names_what_confirmed_it(
    channel: str, made: tuple[tuple[str, str, str | None], ...], sentence: str
) -> None:
    row = ConfirmationRow(channel, "ada", "link", LATER)
    assert cause_of(Timeline(stored(State.CONFIRMED), attempts(*made), (row,))) == sentence


def test_long_errors_are_cut() -> None:
    made = [(channel, "failed", "x" * 9_000) for channel in ("websocket", "direct", "email", "sms")]
    told = cause_of(Timeline(stored(State.DEAD), attempts(*made, *made), ()))
    assert len(told) <= MAX_SENTENCE
