"""The checklist of docs/hardening.md: each item passes for a hardened process alone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from delivery.checks.hardening import CHECKLIST, items
from delivery.cli import main
from delivery.config import DEV_SECRET_PREFIX, Settings, duties

SECRET = "0123456789abcdef" * 4
GOOD: dict[str, Any] = {
    "public_url": "https://events.example.org",
    "database_url": "postgresql://u:p@db.example.org/d?sslmode=verify-full",
    "redis_url": "rediss://:p@redis.example.org/0",
    "broker_url": "redis://:p@redis-broker/0",
    "smtp_url": "smtp://u:p@mail.example.org:587?tls=starttls",
    "jwt_secret": SECRET,
    "jwt_max_ttl": 86_400.0,
    "link_secret": SECRET[::-1],
    "audit_secret": "f" + SECRET[1:],
    "audit_checkpoints": "https://log.example.org/checkpoints",
    "allowed_origins": "https://app.example.org",
    "trusted_proxies": "10.0.0.0/24",
    "flower_basic_auth": "operator:password",
}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("https", {"public_url": "http://events.example.org"}),
    ("encrypted connections", {"database_url": "postgresql://u:p@db.example.org/d"}),
    ("encrypted connections", {"redis_url": "redis://:p@redis.example.org/0"}),
    ("encrypted connections", {"broker_url": "amqp://u:p@10.0.0.7//"}),
    ("encrypted connections", {"smtp_url": "smtp://u:p@mail.example.org?tls=none"}),
    ("encrypted connections", {"alertmanager_url": "http://alerts.example.org"}),
    ("passwords of servers", {"broker_url": "redis://redis-broker/0"}),
    ("passwords of servers", {"database_url": "postgresql://u@db/d"}),
    ("token secret", {"jwt_secret": DEV_SECRET_PREFIX + SECRET}),
    ("token secret", {"jwt_secret": "a" * 64}),
    ("token secret", {"jwt_secret": None}),
    ("token life", {"jwt_max_ttl": None}),
    ("token life", {"jwt_max_ttl": 90 * 86_400.0}),
    ("audience", {"jwks_url": "https://id.example.org/keys"}),
    ("audience", {"jwks_url": "https://id.example.org/keys", "jwt_audience": "*"}),
    ("audience", {"jwks_url": "https://id.example.org/keys", "jwt_audience": "events"}),
    ("link secret", {"link_secret": None}),
    ("audit secret", {"audit_secret": None}),
    ("checkpoints elsewhere", {"audit_checkpoints": ""}),
    ("origins", {"allowed_origins": ""}),
    ("origins", {"allowed_origins": "*"}),
    ("rate limits", {"rate_emit": 0.0}),
    ("rate limits", {"max_connections_per_address": 0}),
    ("trusted proxies", {"trusted_proxies": "0.0.0.0/0"}),
    ("log level", {"log_level": "DEBUG"}),
    ("flower", {"flower_basic_auth": None}),
]


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory of its own, no variable, and a user who is not root."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DELIVERY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)


def faults(**changes: Any) -> set[str]:
    settings = Settings(**GOOD | changes)
    return {item.name for item in items(None) if item.look(settings) is not None}


def test_a_hardened_process_passes_every_item() -> None:
    assert faults() == set()
    jwks = {"jwks_url": "https://id.example.org/keys", "jwt_secret": None}
    assert faults(**jwks, jwt_audience="events", jwt_issuer="https://id.example.org") == set()


@pytest.mark.parametrize(("name", "changes"), BAD)
def test_each_item_fails_for_what_it_is_about(name: str, changes: dict[str, Any]) -> None:
    assert faults(**changes) == {name}


def test_secrets_in_the_environment_and_open_files_and_root_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DELIVERY_SMS_TOKEN", "s")
    assert faults() == {"secrets in files"}
    monkeypatch.delenv("DELIVERY_SMS_TOKEN")
    tmp_path.joinpath("data").mkdir(mode=0o755)
    assert faults(data_dir=tmp_path / "data") == {"data directory"}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert faults() == {"own user"}


def test_every_item_is_about_something_here() -> None:
    named = {name for name, _ in BAD} | {"secrets in files", "data directory", "own user"}
    assert {item.name for item in CHECKLIST} == named


def test_the_document_lists_the_same_items_in_the_same_order() -> None:
    text = (Path(__file__).parents[3] / "docs/hardening.md").read_text()
    assert re.findall(r"^\| `([a-z ]+)` \|", text, re.MULTILINE) == [one.name for one in CHECKLIST]


def test_a_process_is_asked_only_what_concerns_it() -> None:
    names = {item.name for item in items(duties("worker", ("email",)))}
    assert {"link secret", "audit secret", "encrypted connections"} <= names
    assert not {"https", "origins", "flower", "token secret"} & names


def test_strict_fails_where_the_plain_check_is_content(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"REDIS_URL": "redis://127.0.0.1:1/0", "LOG_LEVEL": "DEBUG"}.items():
        monkeypatch.setenv(f"DELIVERY_{name}", value)

    def levels(*args: str) -> dict[str, str]:
        answer = CliRunner().invoke(main, ["check", "--json", *args])
        assert answer.exit_code != 0
        return {found["what"]: found["level"] for found in json.loads(answer.output)}

    plain, strict = levels(), levels("--strict")
    assert "log level" not in plain
    assert strict["log level"] == "fail"
    assert "warn" not in strict.values()
    assert set(plain) <= set(strict)
