"""The demonstration's agent: a run that is complete, short, and under policies that are right."""

from __future__ import annotations

from delivery.api.demo_agent import script
from delivery.bootstrap.embedded import demo_policies
from delivery.config import read_toml
from delivery.domain.event import EventClass
from delivery.domain.policy import parse_policies


def test_a_run_begins_ends_and_takes_less_than_fifteen_seconds() -> None:
    beats = script("why?")
    types = [type for _, type, _ in beats]
    assert types[0] == "agent_started"
    assert types[-1] == "agent_completed"
    assert types.count("tool_executing") == types.count("tool_completed") == 2
    assert sum(pause for pause, _, _ in beats) < 15.0


def test_the_streamed_words_are_the_answer() -> None:
    beats = script("why?")
    streamed = "".join(data["text"] for _, type, data in beats if type == "token_delta")
    assert streamed.strip() == beats[-1][2]["result"]


def test_the_demonstrations_policies_reach_a_mail_within_seconds() -> None:
    policies = parse_policies(read_toml(demo_policies()))
    critical = policies.of(EventClass.CRITICAL)
    chain = {step.channel: step for step in critical.chain}
    assert list(chain) == [
        "database",
        "queue",
        "direct",
        "emergency",
        "email",
        "sms",
        "alert",
    ]
    waits = critical.ack_timeout + sum(
        chain[name].after for name in ("database", "queue", "direct", "emergency", "email")
    )
    assert waits < 15.0
