"""Story 4: the client comes back midway. It gets what it missed, once; the chain stops."""

from __future__ import annotations

import asyncio

from delivery.domain.event import AGENT_TYPES
from tests.acceptance.conftest import Start
from tests.wire import eventually, listening

EMAIL = "ada@example.org"


async def test_a_client_that_comes_back_gets_what_it_missed_and_no_mail_is_sent(
    start: Start,
) -> None:
    service = start(email_after=8.0)
    service.contact("ada", email=EMAIL)
    async with listening(service.url, service.token("ada")) as listener:
        first = await asyncio.to_thread(service.emit, "ada", "run-1", AGENT_TYPES[:2])
        await listener.receive(2)
        await eventually(lambda: service.states(first), lambda states: set(states) == {"confirmed"})
    missed = await asyncio.to_thread(service.emit, "ada", "run-1", AGENT_TYPES[2:])
    await eventually(
        lambda: service.outcomes(missed[-1]),
        lambda seen: ("direct", "failed") in seen,
        timeout=20,
    )
    async with listening(service.url, service.token("ada"), cursor=first[-1]) as listener:
        assert listener.welcome["recovered"] is True
        await eventually(
            lambda: service.states(missed), lambda states: set(states) == {"confirmed"}
        )
        live = await asyncio.to_thread(service.emit, "ada", "run-2", ("agent_started",))
        await listener.until(lambda: live[0] in listener.ids)
    # Replayed may be what was recorded shortly before the cursor; what it missed comes once.
    news = [event_id for event_id in listener.ids if event_id not in first]
    assert news == [*missed, *live]
    for event_id in missed:
        event = service.event(event_id)
        assert (event["due_at"], event["step"]) == (None, None)
        assert "email" not in {attempt["channel"] for attempt in event["attempts"]}
    assert service.inbox("email", EMAIL) == []


async def test_events_the_client_does_not_acknowledge_take_the_chain(start: Start) -> None:
    service = start(ack_timeout=0.5)
    service.contact("ada", email=EMAIL)
    async with listening(service.url, service.token("ada"), acks=False) as listener:
        ids = await asyncio.to_thread(service.emit, "ada", "run-1")
        await listener.receive(5)
        await eventually(
            lambda: service.inbox("email", EMAIL), lambda mails: len(mails) == 1, timeout=30
        )
        assert ("direct", "delivered") in service.outcomes(ids[0]), "it was sent once more"
        await listener.send({"type": "ack", "upto": len(listener.events)})
        await eventually(lambda: service.states(ids), lambda states: set(states) == {"confirmed"})


async def test_a_nack_hands_over_at_once(start: Start) -> None:
    service = start(ack_timeout=30.0)
    async with listening(service.url, service.token("ada"), acks=False) as listener:
        ids = await asyncio.to_thread(service.emit, "ada", "run-1", ("agent_completed",))
        await listener.receive(1)
        await listener.send({"type": "nack", "id": ids[0], "reason": "cannot draw it"})
        event = await eventually(
            lambda: service.event(ids[0]), lambda event: event["state"] == "falling_back"
        )
    errors = [attempt["error"] for attempt in event["attempts"] if attempt["error"]]
    assert any("cannot draw it" in error for error in errors)
