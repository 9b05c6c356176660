"""The names of channels stand once; nothing that is stored or sent shows that they are enums."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

import delivery
from delivery.domain import channels
from delivery.domain.channels import CHAIN, DIGESTED, EXTERNAL, LIVE, Channel, Confirms, OnUnknown
from delivery.domain.policy import parse_policies
from delivery.errors import ConfigError

CHAIN_OF = {"class": {"critical": {"chain": [{"channel": "email", "on_unknown": "once"}]}}}
ROOMS = ("api", "domain", "gateway", "ledger", "tasks", "transports")
LITERALS = {"websocket", "sse", "sms", "alert", "direct", "emergency"}
"""Names that mean nothing but a channel (``email``, ``http``, ``queue`` and ``database`` do)."""


def test_every_channel_is_live_or_a_step() -> None:
    assert {*CHAIN, *LIVE} == set(Channel)
    assert set(DIGESTED) < set(EXTERNAL) < set(CHAIN)


def test_a_policy_speaks_in_enums_and_reads_the_words_of_the_file() -> None:
    [step] = next(p.chain for p in parse_policies(CHAIN_OF).classes.values() if p.chain)
    assert (step.channel, step.confirms, step.on_unknown) == (
        Channel.EMAIL,
        Confirms.LINK,
        OnUnknown.ONCE,
    )
    assert type(step.channel) is Channel
    assert msgspec.json.encode([step.channel, step.confirms]) == b'["email","link"]'


@pytest.mark.parametrize("key", ["channel", "confirms", "on_unknown"])
def test_an_unknown_word_is_refused_with_the_known_ones(key: str) -> None:
    step = {"channel": "email", key: "pigeon"}
    with pytest.raises(ConfigError, match=f"{key}: 'pigeon' is not one of [a-z]+, "):
        parse_policies({"class": {"critical": {"chain": [step]}}})


def test_the_name_of_a_channel_is_written_in_one_place() -> None:
    root = Path(delivery.__file__).parent
    home = Path(channels.__file__)
    found = [
        f"{path.relative_to(root)}:{node.lineno} {node.value}"
        for room in ROOMS
        for path in sorted((root / room).rglob("*.py"))
        if path != home
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in LITERALS
    ]
    # An AMQP exchange's type is called so, too.
    assert [one for one in found if not one.startswith("tasks/broker/app.py")] == []
