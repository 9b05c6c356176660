"""Why an event reached its user, or did not: one sentence for people.

Owns: the sentence, from what the ledger has of an event. Pure. Never does: decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from delivery.domain.channels import DECISION, LIVE, Channel
from delivery.domain.event import format_instant
from delivery.domain.lifecycle import Attempt, Outcome, State
from delivery.domain.records import Stored, Timeline
from delivery.domain.users.receipts import ReceiptRow

MAX_REASON = 160
MAX_SENTENCE = 600
_NAMES: dict[str, str] = {
    Channel.WEBSOCKET: "the push",
    Channel.DATABASE: "the ledger",
    Channel.QUEUE: "the queue copy",
    Channel.DIRECT: "the resend",
    Channel.EMERGENCY: "the push message",
    Channel.EMAIL: "the mail",
    Channel.SMS: "the text message",
    Channel.ALERT: "the alert",
}
_PLAIN = ("nobody connected", "no email address", "no phone number", "no push target", "the SMS")
"""Beginnings of errors that need no name of a channel before them."""
_UNANSWERED: dict[str, str] = {
    Channel.DIRECT: "the resend was not acknowledged",
    Channel.EMERGENCY: "the push message went out, which confirms nothing",
    Channel.EMAIL: "the mail went out and was not confirmed",
    Channel.SMS: "the text message went out and was not confirmed",
}
_COPIES = (Channel.DATABASE, Channel.QUEUE)


def cause_of(timeline: Timeline) -> str:
    """One sentence: whether the event was delivered, and by what or why not.

    Args:
        timeline: with the attempts of all generations; the present one counts.
    """
    stored = timeline.stored
    if stored.state is State.CONFIRMED:
        return _cut(_delivered(timeline))
    tries = [one for one in timeline.attempts if one.generation == stored.generation]
    reasons = "; ".join(_reasons(tries, timeline.receipts))
    return _cut(_UNDELIVERED[stored.state](stored, reasons))


def _delivered(timeline: Timeline) -> str:
    if not timeline.confirmations:
        return "Delivered."
    first = timeline.confirmations[0]
    over = "" if first.channel in LIVE else f" over {first.channel}"
    tries = [
        one
        for one in timeline.attempts
        if one.outcome in (Outcome.FAILED, Outcome.SKIPPED, Outcome.UNKNOWN)
        or (one.outcome is Outcome.DELIVERED and one.channel != first.channel)
    ]
    before = "; ".join(_reasons([one for one in tries if one.started_at <= first.at], ()))
    said = f"; before that: {before}" if before else ""
    return f"Delivered: {first.by} confirmed it{over}{said}."


def _waiting(stored: Stored, reasons: str) -> str:
    held = None if stored.options is None else stored.options.not_before
    if held is not None and held > stored.recorded_at:
        return f"Held back until {_told(held)}, as its sender asked."
    return f"Waiting for an acknowledgement{_so_far(reasons)}."


def _falling_back(stored: Stored, reasons: str) -> str:
    if stored.step is None:
        return f"Not delivered yet{_so_far(reasons)}; its chain begins."
    due = "" if stored.due_at is None else f", due {_told(stored.due_at)}"
    return f"Not delivered yet{_so_far(reasons)}; next: {stored.step}{due}."


def _parked(stored: Stored, reasons: str) -> str:
    until = _told(stored.expires_at)
    return f"Not delivered{_so_far(reasons)}; it waits for its user to connect until {until}."


def _dead(stored: Stored, reasons: str) -> str:
    return f"Not delivered{_so_far(reasons)}."


def _expired(stored: Stored, reasons: str) -> str:
    return f"Not delivered before its time was over{_so_far(reasons)}."


_UNDELIVERED: dict[State, Callable[[Stored, str], str]] = {
    State.ACCEPTED: _waiting,
    State.SENT: _waiting,
    State.FALLING_BACK: _falling_back,
    State.PARKED: _parked,
    State.DEAD: _dead,
    State.EXPIRED: _expired,
}


def _so_far(reasons: str) -> str:
    return f": {reasons}" if reasons else ""


def _reasons(tries: Sequence[Attempt], receipts: Sequence[ReceiptRow]) -> list[str]:
    """Why each step did not deliver, by its last attempt, in the order of their first ones."""
    last: dict[str, Attempt] = {}
    for one in sorted(tries, key=lambda attempt: (attempt.started_at, attempt.number)):
        last[one.step_name] = one
    found = [reason for one in last.values() if (reason := _reason(one, receipts)) is not None]
    if any(reason.startswith("nobody connected") for reason in found):
        # The resend found the same.
        found = [reason for reason in found if reason != "the resend: not connected"]
    return list(dict.fromkeys(found))


def _reason(one: Attempt, receipts: Sequence[ReceiptRow]) -> str | None:
    """Why an attempt did not deliver; ``None`` for one that says nothing about that."""
    name = _NAMES.get(one.channel, one.channel) + (f" ({one.step})" if one.step else "")
    if one.channel == DECISION:
        return f"an error of this service: {_short(one.error)}"
    if one.receipt is not None:
        codes = [row.code for row in receipts if row.digest_id == one.digest_id and row.code]
        return f"{name} {one.receipt}" + (f" ({codes[-1]})" if codes else "")
    match one.outcome:
        case Outcome.STARTED:
            return f"{name} is under way"
        case Outcome.DELIVERED | Outcome.CONFIRMED:
            return _UNANSWERED.get(one.channel)
        case Outcome.UNKNOWN:
            return f"{name} may have gone out: {_short(one.error)}"
        case Outcome.SKIPPED if one.channel in _COPIES:
            return None
        case _:
            text = _short(one.error)
            return text if text.startswith(_PLAIN) else f"{name}: {text}"


def _told(at: datetime) -> str:
    """An instant to the second, which is all that a reader needs."""
    return format_instant(at.replace(microsecond=0))


def _short(error: str | None) -> str:
    text = " ".join((error or "no reason given").split()).rstrip(".")
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


def _cut(sentence: str) -> str:
    return sentence if len(sentence) <= MAX_SENTENCE else sentence[: MAX_SENTENCE - 1] + "…"
