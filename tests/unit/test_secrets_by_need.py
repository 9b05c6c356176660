"""Secrets by need: what each kind of process must have, and what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from delivery import config
from delivery.bootstrap.links import make_links
from delivery.bootstrap.workers import make_worker_app
from delivery.config import Settings
from delivery.config.needs import KINDS, QUEUES, USED_BY
from delivery.config.sources import secrets_of
from delivery.errors import ConfigError, LinkInvalid
from delivery.links import CONFIRM

TOKENS, LINKS, OLD = "t" * 32, "l" * 32, "o" * 32
AUDIT: dict[str, Any] = {"audit_secret": "a" * 32}
PLAIN: dict[str, Any] = {"database_url": "postgresql://u:p@h/d", "broker_url": "redis://h/1"}
BASE: dict[str, Any] = PLAIN | AUDIT
JWKS: dict[str, Any] = {"jwks_url": "https://id.example.org/keys"}
MAIL: dict[str, Any] = {"smtp_url": "smtp://h:25", "channels": "email"}


@pytest.fixture(autouse=True)
def _nothing_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))


def found(kind: str, queues: tuple[str, ...] = (), **settings: Any) -> set[tuple[str, bool]]:
    given = config.load_settings(**settings)
    return {
        (need.setting.removeprefix("DELIVERY_").lower(), need.is_missing)
        for need in config.needs(given, config.duties(kind, queues))
    }


def test_every_secret_has_its_users() -> None:
    assert set(USED_BY) == secrets_of(Settings)
    assert {duty for used in USED_BY.values() for duty in used} <= QUEUES | set(KINDS)


def test_a_gateway_with_an_identity_provider_needs_no_secret_that_signs_tokens() -> None:
    gateway = BASE | JWKS | {"redis_url": "redis://h/0", "channels": "email", "link_secret": LINKS}
    assert found("gateway", **gateway) == set()
    config.require_trust(config.load_settings(**gateway))
    assert found("gateway", **gateway, jwt_secret=TOKENS) == {("jwt_secret", False)}


def test_a_gateway_without_a_way_to_verify_tokens_or_links_lacks_one() -> None:
    gateway = BASE | {"redis_url": "redis://h/0", "channels": "email"}
    assert found("gateway", **gateway) == {("jwt_secret", True), ("link_secret", True)}
    assert found("gateway", **gateway | JWKS) == {("link_secret", True)}
    with pytest.raises(ConfigError, match="DELIVERY_LINK_SECRET"):
        config.require_trust(config.load_settings(**gateway | JWKS))


def test_a_worker_of_mails_needs_the_link_secret_and_no_other_that_signs() -> None:
    worker = BASE | MAIL | {"link_secret": LINKS}
    assert found("worker", ("email",), **worker) == set()
    make_worker_app(config.load_settings(**worker), queues=("email",))
    extra = {"jwt_secret": TOKENS, "sms_token": "s", "redis_url": "redis://h/0"}
    assert found("worker", ("email",), **worker, **extra) == {
        ("jwt_secret", False),
        ("sms_token", False),
        ("redis_url", False),
    }


def test_a_worker_of_mails_without_the_link_secret_does_not_start() -> None:
    settings = config.load_settings(**BASE | MAIL)
    with pytest.raises(ConfigError, match="DELIVERY_LINK_SECRET"):
        make_worker_app(settings, queues=("delivery.email",))
    with pytest.raises(ConfigError, match="DELIVERY_LINK_SECRET"):
        make_worker_app(settings)  # it serves all queues
    make_worker_app(settings, queues=("emergency",))


def test_only_workers_of_emergency_read_the_webhooks_file(tmp_path: Path) -> None:
    settings = config.load_settings(**BASE, webhooks=tmp_path / "webhooks.toml")
    make_worker_app(settings, queues=("email", "maintenance"))
    for queues in (("emergency",), ("delivery.emergency",)):
        with pytest.raises(ConfigError, match="DELIVERY_WEBHOOKS: there is no file"):
            make_worker_app(settings, queues=queues)


def test_where_links_have_no_secret_of_their_own_that_of_tokens_is_needed() -> None:
    assert found("worker", ("email",), **BASE, **MAIL, jwt_secret=TOKENS) == set()
    assert found("worker", ("alert",), **BASE, **MAIL, jwt_secret=TOKENS) == {
        ("jwt_secret", False),
        ("smtp_url", False),
    }


def test_a_worker_of_a_channel_lacks_what_the_channel_needs() -> None:
    named = BASE | {"channels": "email,sms", "link_secret": LINKS}
    assert found("worker", ("email",), **named) == {("smtp_url", True)}
    assert found("worker", ("sms",), **named) == {("sms_url", True), ("sms_token", True)}
    assert found("worker", ("direct",), **named) == {("redis_url", True), ("link_secret", False)}


def test_beat_migrate_and_flower_have_little() -> None:
    assert found("beat", **PLAIN) == set()
    assert found("beat", **BASE) == {("audit_secret", False)}
    owner: dict[str, Any] = {"migrate_database_url": "postgresql://o:p@h/d"}
    assert found("migrate", **PLAIN, **owner) == {("broker_url", False)}
    assert found("flower", broker_url="redis://h/1", flower_basic_auth="a:b") == set()
    assert ("database_url", False) in found("flower", **BASE)


def test_gateways_and_workers_need_the_key_of_the_compliance_log() -> None:
    named = PLAIN | {"redis_url": "redis://h/0", "jwt_secret": TOKENS}
    assert ("audit_secret", True) in found("gateway", **named)
    assert found("worker", ("emergency",), **PLAIN) == {("audit_secret", True)}
    with pytest.raises(ConfigError, match="openssl rand"):
        make_worker_app(config.load_settings(**PLAIN), queues=("emergency",))


def test_an_unknown_kind_or_queue_is_named() -> None:
    with pytest.raises(ConfigError, match="pigeon"):
        config.duties("pigeon")
    with pytest.raises(ConfigError, match="pigeon"):
        config.duties("worker", ("pigeon",))


def test_links_and_tokens_must_not_share_a_secret() -> None:
    with pytest.raises(ConfigError, match="DELIVERY_LINK_SECRET") as caught:
        config.load_settings(jwt_secret=TOKENS, link_secret=TOKENS)
    assert TOKENS not in str(caught.value)


def test_links_of_the_secret_before_and_of_the_token_secret_before_it_still_work() -> None:
    derived = make_links(config.load_settings(jwt_secret=TOKENS)).confirm_url("d")
    first = make_links(config.load_settings(jwt_secret=TOKENS, link_secret=OLD)).confirm_url("d")
    now = config.load_settings(jwt_secret=TOKENS, link_secret=LINKS, link_secret_previous=OLD)
    assert make_links(now).read(first.rpartition("/")[2], CONFIRM).subject == "d"
    with pytest.raises(LinkInvalid):
        make_links(now).read(derived.rpartition("/")[2], CONFIRM)
    change = config.load_settings(jwt_secret=TOKENS, link_secret=OLD, link_secret_previous=TOKENS)
    assert make_links(change).read(derived.rpartition("/")[2], CONFIRM).subject == "d"


@pytest.mark.parametrize("name", ["link_secret", "link_secret_previous"])
def test_a_short_secret_of_links_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        config.load_settings(**{name: "short"})
