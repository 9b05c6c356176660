"""Tokens of ``delivery.issue_token``: taken by the gateway, refused before they are made."""

from __future__ import annotations

import subprocess
import sys

import jwt
import pytest

import delivery
from delivery.callers.auth import Authenticator

SECRET = "issue-token-secret-of-32-bytes-at-least"


async def test_a_users_token_is_a_clients() -> None:
    principal = await Authenticator(SECRET).verify(delivery.issue_token("ada", SECRET))
    assert (principal.subject, principal.is_client) == ("ada", True)
    assert principal.token_ids  # one token can be revoked
    assert principal.issued_at is not None


@pytest.mark.parametrize("scope", ["emit operate", ["emit", "operate"], ("operate", "emit")])
async def test_a_scope_makes_a_service(scope: object) -> None:
    token = delivery.issue_token("shop", SECRET, scope=scope)  # type: ignore[arg-type]
    principal = await Authenticator(SECRET).verify(token)
    assert not principal.is_client
    assert principal.scopes == {"emit", "operate"}


async def test_settings_of_the_service_are_met() -> None:
    strict = Authenticator(SECRET, audience="delivery", issuer="shop", scope_prefix="delivery:")
    token = delivery.issue_token(
        "x", SECRET, 60, "emit", audience="delivery", issuer="shop", scope_prefix="delivery:"
    )
    assert (await strict.verify(token)).may("emit")


def test_the_ttl_is_seconds_from_now() -> None:
    claims = jwt.decode(delivery.issue_token("ada", SECRET, ttl=90), SECRET, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 90


@pytest.mark.parametrize(
    ("user", "secret", "more"),
    [
        ("", SECRET, {}),
        (None, SECRET, {}),
        (7, SECRET, {}),
        ("a" * 129, SECRET, {}),
        ("a\x00b", SECRET, {}),
        ("\ud800", SECRET, {}),
        ("ada", "short", {}),
        ("ada", b"b" * 40, {}),
        ("ada", "\ud800" * 40, {}),
        ("ada", None, {}),
        ("ada", SECRET, {"ttl": 0}),
        ("ada", SECRET, {"ttl": -5}),
        ("ada", SECRET, {"ttl": 0.5}),
        ("ada", SECRET, {"ttl": float("nan")}),
        ("ada", SECRET, {"ttl": float("inf")}),
        ("ada", SECRET, {"ttl": "3600"}),
        ("ada", SECRET, {"ttl": True}),
        ("ada", SECRET, {"scope": "admin"}),
        ("ada", SECRET, {"scope": ""}),
        ("ada", SECRET, {"scope": []}),
        ("ada", SECRET, {"scope": ["emit", 3]}),
        ("ada", SECRET, {"scope": 3}),
    ],
)
def test_bad_input_is_an_error_of_ours(
    user: object, secret: object, more: dict[str, object]
) -> None:
    with pytest.raises((delivery.ConfigError, delivery.InvalidContext)) as told:
        delivery.issue_token(user, secret, **more)  # type: ignore[arg-type]
    assert SECRET not in str(told.value)


def test_it_loads_no_framework() -> None:
    code = (
        "import sys, delivery; delivery.issue_token('ada', 's' * 32);"
        "print([m for m in ('aiohttp', 'celery', 'sqlalchemy', 'pydantic') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
