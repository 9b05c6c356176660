"""The policy file: what it means and which complaint a mistake gets."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from delivery.domain.event import AGENT_TYPES, AUTH_TYPES, EventClass
from delivery.domain.policy import CHANNELS, DigestRule, Policies, parse_policies
from delivery.domain.retry import Backoff
from delivery.errors import ConfigError

DEFAULT_FILE = Path(__file__).parents[3] / "config" / "policies.toml"


def parse(text: str) -> Policies:
    return parse_policies(tomllib.loads(text), source="p.toml")


def with_step(line: str, channel: str = "email") -> str:
    return f'[[class.critical.chain]]\nchannel = "{channel}"\n{line}'


@pytest.fixture(scope="module")
def default() -> Policies:
    with DEFAULT_FILE.open("rb") as file:
        return parse_policies(tomllib.load(file), source=DEFAULT_FILE.name)


class TestTheDefaultFile:
    def test_agent_events_are_critical_and_auth_events_auth(self, default: Policies) -> None:
        assert {default.class_of(name) for name in AGENT_TYPES} == {EventClass.CRITICAL}
        assert {default.class_of(name) for name in AUTH_TYPES} == {EventClass.AUTH}

    def test_a_type_that_no_class_lists_is_standard(self, default: Policies) -> None:
        assert default.class_of("report_ready") is EventClass.STANDARD

    def test_critical_events_go_through_every_channel(self, default: Policies) -> None:
        chain = default.of(EventClass.CRITICAL).chain
        assert tuple(step.channel for step in chain) == CHANNELS

    def test_standard_events_park_after_a_digest(self, default: Policies) -> None:
        policy = default.of(EventClass.STANDARD)
        assert [step.channel for step in policy.chain] == ["database", "queue", "direct", "email"]
        assert not policy.ends_in_alert

    def test_auth_events_get_five_retries_and_a_short_life(self, default: Policies) -> None:
        policy = default.of(EventClass.AUTH)
        assert policy.retries == 5
        assert policy.ttl < 3600
        assert policy.ends_in_alert

    def test_the_auth_chain_ends_before_the_time_to_live(self, default: Policies) -> None:
        policy = default.of(EventClass.AUTH)
        assert sum(step.after for step in policy.chain) < policy.ttl

    def test_ephemeral_events_have_no_chain(self, default: Policies) -> None:
        assert default.of(EventClass.EPHEMERAL).chain == ()

    def test_messages_that_cost_money_are_never_repeated_on_doubt(self, default: Policies) -> None:
        step = default.of(EventClass.CRITICAL).step("sms")
        assert step is not None
        assert step.on_unknown == "skip"


class TestWhatIsLeftOut:
    def test_an_empty_file_has_a_policy_for_every_class(self) -> None:
        policies = parse("")
        assert set(policies.classes) == set(EventClass)
        assert policies.class_of("agent_started") is EventClass.CRITICAL
        assert policies.of(EventClass.AUTH).retries == 5
        assert policies.of(EventClass.CRITICAL).retries == 3

    def test_a_step_takes_the_backoff_of_its_class(self) -> None:
        policies = parse(
            "[class.critical]\nbackoff = { base = 1.0, max = 8.0 }\n" + with_step("", "direct")
        )
        assert policies.of(EventClass.CRITICAL).chain[0].backoff == Backoff(1.0, 8.0, 0.3)

    def test_email_and_sms_always_go_by_digest(self) -> None:
        for channel in ("email", "sms"):
            step = parse(with_step("", channel)).of(EventClass.CRITICAL).chain[0]
            assert step.digest == DigestRule(window=0.0, min_interval=0.0)

    def test_email_is_confirmed_by_its_link_and_sms_by_its_receipt(self) -> None:
        found = {
            channel: parse(with_step("", channel)).of(EventClass.CRITICAL).chain[0].confirms
            for channel in ("email", "sms", "emergency")
        }
        assert found == {"email": "link", "sms": "receipt", "emergency": "never"}


@pytest.mark.parametrize(
    ("text", "key", "advice"),
    [
        ("classes = 1", "classes", "known here: class"),
        ("[class.VIP]", "class.VIP", "begins with a letter"),
        ("[class.critical]\nttk = 1", "class.critical.ttk", "ttl"),
        ("[class.critical]\nttl = 'long'", "class.critical.ttl", "a number"),
        ("[class.critical]\nttl = true", "class.critical.ttl", "a number"),
        ("[class.critical]\nttl = nan", "class.critical.ttl", "a number"),
        ("[class.critical]\nttl = inf", "class.critical.ttl", "ten years"),
        ("[class.critical]\nttl = 4", "class.critical.ttl", "longer than ack_timeout"),
        ("[class.critical]\nack_timeout = 0", "class.critical.ack_timeout", "over 0"),
        ("[class.critical]\nretries = 1.5", "class.critical.retries", "whole number"),
        ("[class.critical]\nretries = -1", "class.critical.retries", "0 or more"),
        ("[class.critical]\nlinger = 1", "class.critical.linger", "at most 0.1"),
        ("[class.critical]\ntypes = 'a'", "class.critical.types", "list of strings"),
        ("[class.critical]\nbackoff = { jitter = 2 }", "backoff.jitter", "fraction"),
        ("[class.critical]\nbackoff = { base = 9 }", "backoff.max", "at least base"),
        ("[class.critical]\nchain = {}", "class.critical.chain", "[[class.critical.chain]]"),
        ("[[class.critical.chain]]\nafter = 1", "chain[0].channel", "write one of"),
        (with_step("", "fax"), "chain[0].channel", "database"),
        (with_step("attempts = 0"), "chain[0].attempts", "1 or more"),
        (with_step("after = -1"), "chain[0].after", "0 or more"),
        (with_step("confirms = 'hope'"), "chain[0].confirms", "link"),
        (with_step("on_unknown = 'panic'"), "chain[0].on_unknown", "retry"),
        (with_step("respects = ['sleep']"), "chain[0].respects", "quiet_hours"),
        (with_step("digest = {}", "direct"), "chain[0].digest", "only email and sms"),
        (with_step("digest = { by = ['run_id'] }"), "digest.by", "user_id"),
        (with_step("confirms = 'link'", "direct"), "chain[0].confirms", "never confirms"),
        (with_step("") + "\n" + with_step(""), "chain[1].channel", "already"),
        (with_step("", "alert") + "\n" + with_step(""), "chain[0].channel", "last"),
        (with_step("").replace("critical", "ephemeral"), "class.ephemeral.chain", "never stored"),
        (
            "[class.critical]\ntypes = ['a']\n[class.auth]\ntypes = ['a']",
            "types",
            "list it once",
        ),
    ],
)
def test_a_mistake_is_named_with_its_mend(text: str, key: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("p.toml: ")
    assert key in message
    assert advice in message


def test_a_step_is_found_by_its_channel() -> None:
    policy = parse(with_step("after = 7.0")).of(EventClass.CRITICAL)
    found: Any = policy.step("email")
    assert found.after == 7.0
    assert policy.step("sms") is None
    assert policy.step(None) is None


OWN = """
[class.orders]
types = ["order_paid"]
ttl = 3600.0
[[class.orders.chain]]
channel = "sms"
[[class.orders.chain]]
channel = "email"
"""


def test_a_class_of_ones_own_has_any_chain() -> None:
    policies = parse_policies(tomllib.loads(OWN))
    orders = EventClass("orders")
    assert policies.class_of("order_paid") == orders
    assert [step.channel for step in policies.of(orders).chain] == ["sms", "email"]
    assert policies.own == ("orders",)
    assert set(EventClass) < set(policies.classes)


def test_a_class_that_left_the_file_is_standard() -> None:
    policies = parse_policies(tomllib.loads(OWN))
    assert policies.of(EventClass("gone")) is policies.of(EventClass.STANDARD)


@pytest.mark.parametrize("name", ["Orders", "1st", "a-b", "o" * 17, "", "ordér", "orders\n"])
def test_the_name_of_a_class_is_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="a class's name"):
        parse_policies({"class": {name: {}}})
    with pytest.raises(ValueError, match="not a valid EventClass"):
        EventClass(name)


def test_the_number_of_classes_is_bounded() -> None:
    with pytest.raises(ConfigError, match="at most 100"):
        parse_policies({"class": {f"c{number}": {} for number in range(101)}})


TWICE = """
[[class.orders.chain]]
channel = "email"
[[class.orders.chain]]
channel = "email"
name = "reminder"
after = 86400.0
"""


def test_a_chain_has_a_channel_twice_under_two_names() -> None:
    policy = parse(TWICE).of(EventClass("orders"))
    assert [(step.name, step.channel, step.own_name) for step in policy.chain] == [
        ("email", "email", None),
        ("reminder", "email", "reminder"),
    ]
    assert policy.step("reminder") is policy.chain[1]


@pytest.mark.parametrize("name", ["email", "sms", "websocket", "decision", "Late", "l" * 17, 7])
def test_the_name_of_a_step_is_checked(name: object) -> None:
    with pytest.raises(ConfigError, match=r"class\.orders\.chain\[1\]"):
        parse(TWICE.replace('"reminder"', repr(name)))
