"""HS256 tokens: what is accepted, what is not, and why the client may or may not come back."""

import base64
import contextlib
import json
import time
from typing import Any

import jwt
import pytest

from delivery.callers import auth
from delivery.callers.auth import Authenticator
from delivery.errors import ConfigError, Unauthenticated
from delivery.tokens import make_token

SECRET = "s" * 32
OLD = "o" * 32


def sign(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"sub": "u1", "exp": int(time.time()) + 60} | claims, secret, algorithm)


def raw_token(header: dict[str, Any], payload: str, signature: str = "") -> str:
    parts = (json.dumps(header), payload)
    return ".".join(
        [*(base64.urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts), signature]
    )


async def refused(token: str, **settings: Any) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        await Authenticator(**({"secret": SECRET} | settings)).verify(token)
    return caught.value


async def test_a_token_without_scope_is_a_clients() -> None:
    principal = await Authenticator(SECRET).verify(make_token(SECRET, "u1"))
    assert principal.subject == "u1"
    assert principal.is_client
    assert principal.is_user("u1")
    assert not principal.is_user("u2")
    assert not principal.may("read")


async def test_a_token_that_is_not_valid_yet_is_refused_for_the_time_being() -> None:
    error = await refused(sign(nbf=int(time.time()) + 40), leeway=30.0)
    assert error.close_code == 3006


async def test_clocks_may_differ_by_the_leeway() -> None:
    auth_ = Authenticator(SECRET, leeway=30.0)
    now = int(time.time())
    assert (await auth_.verify(sign(nbf=now + 20))).subject == "u1"
    late = await auth_.verify(sign(exp=now - 20))
    assert late.expires_at.timestamp() == now - 20
    assert late.ends_at == now + 10
    assert (await refused(sign(exp=now - 40), leeway=30.0)).close_code == 3005


async def test_a_token_with_scope_is_a_services_and_no_users() -> None:
    principal = await Authenticator(SECRET).verify(make_token(SECRET, "u1", "emit read"))
    assert principal.scopes == {"emit", "read"}
    assert not principal.is_client
    assert not principal.is_user("u1")


@pytest.mark.parametrize("scope", ["", "openid profile", "EMIT", "emit:all"])
async def test_scopes_of_an_identity_provider_make_no_service(scope: str) -> None:
    principal = await Authenticator(SECRET).verify(sign(scope=scope))
    assert (principal.is_client, principal.scopes) == (True, frozenset())


async def test_with_a_prefix_only_scopes_that_carry_it_count() -> None:
    auth_ = Authenticator(SECRET, scope_prefix="delivery:")
    service = await auth_.verify(sign(scope="openid delivery:emit"))
    assert (service.is_client, service.scopes) == (False, {"emit"})
    assert (await auth_.verify(sign(scope="emit read"))).is_client


async def test_a_services_name_is_no_users() -> None:
    service = await Authenticator(SECRET).verify(make_token(SECRET, "u1", "emit"))
    with pytest.raises(Unauthenticated, match="service"):
        _ = service.user_id


async def test_the_previous_secret_is_accepted_while_it_is_set() -> None:
    token = make_token(OLD, "u1")
    assert (await Authenticator(SECRET, OLD).verify(token)).subject == "u1"
    assert (await refused(token)).close_code == 3500


async def test_an_expired_token_closes_with_3005() -> None:
    assert (await refused(make_token(SECRET, "u1", ttl=-10))).close_code == 3005
    assert (await refused(make_token(OLD, "u1", ttl=-10), previous_secret=OLD)).close_code == 3005


async def test_an_expired_token_with_a_wrong_signature_closes_with_3500() -> None:
    assert (await refused(make_token("x" * 32, "u1", ttl=-10))).close_code == 3500


async def test_leeway_forgives_a_clock_that_is_a_little_off() -> None:
    token = make_token(SECRET, "u1", ttl=-10)
    assert (await Authenticator(SECRET, leeway=30).verify(token)).subject == "u1"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "ä.ö.ü",
        "\ud800",
        "a" * 9_000,
        raw_token({"alg": "none"}, '{"sub":"u1","exp":9999999999}'),
        raw_token({"alg": "None"}, '{"sub":"u1","exp":9999999999}', "x"),
        raw_token({}, '{"sub":"u1","exp":9999999999}'),
        raw_token({"alg": ["HS256"]}, '{"sub":"u1","exp":9999999999}', "x"),
    ],
)
async def test_what_is_no_signed_token_is_refused(token: str) -> None:
    assert (await refused(token)).close_code == 3500


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_an_algorithm_that_is_not_listed_is_refused(algorithm: str) -> None:
    secret = "s" * 64
    assert (await refused(sign(secret, algorithm), secret=secret)).close_code == 3500


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ""},
        {"sub": " "},
        {"sub": "a\nb"},
        {"sub": "a" * 129},
        {"scope": ["emit"]},
        {"scope": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
    ],
)
async def test_a_signed_token_with_a_wrong_claim_is_refused(claims: dict[str, Any]) -> None:
    assert (await refused(sign(**claims))).close_code == 3500


@pytest.mark.parametrize("missing", ["sub", "exp"])
async def test_sub_and_exp_are_required(missing: str) -> None:
    claims = {"sub": "u1", "exp": int(time.time()) + 60}
    del claims[missing]
    assert (await refused(jwt.encode(claims, SECRET, "HS256"))).close_code == 3500


@pytest.mark.parametrize("exp", [10**15, 1e300, 2**64, int("9" * 400), 253_402_300_800])
async def test_a_token_that_never_seems_to_end_is_fine(exp: float) -> None:
    principal = await Authenticator(SECRET, leeway=30.0).verify(sign(exp=exp))
    assert principal.expires_at.year == 9999


INSTANTS = (
    *(0, -1, -0.0, 1.5, 1e-300, 1e300, -1e300, float("nan"), float("inf"), -float("inf")),
    *(2**63, -(2**64), int("9" * 400), -int("9" * 400), 253_402_300_800, -62_135_596_801),
    *("", "soon", "1", "1e300", "NaN", "9" * 5_000, True, False, None, [], [1], {}),
)


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", INSTANTS, ids=lambda value: repr(value)[:20])
async def test_no_instant_in_a_token_is_an_error_of_ours(claim: str, value: object) -> None:
    token = sign(**{claim: value})
    with contextlib.suppress(Unauthenticated):
        principal = await Authenticator(SECRET, leeway=30.0).verify(token)
        assert principal.ends_at > time.time()


async def test_audience_and_issuer_are_checked_when_they_are_set() -> None:
    settings = {"audience": "delivery", "issuer": "https://issuer"}
    good = make_token(SECRET, "u1", audience="delivery", issuer="https://issuer")
    assert (await Authenticator(SECRET, **settings).verify(good)).subject == "u1"
    for wrong in (
        make_token(SECRET, "u1"),
        make_token(SECRET, "u1", audience="other", issuer="https://issuer"),
        make_token(SECRET, "u1", audience="delivery", issuer="https://other"),
    ):
        assert (await refused(wrong, **settings)).close_code == 3500


async def test_an_audience_is_no_hindrance_when_none_is_set() -> None:
    token = make_token(SECRET, "u1", audience="any")
    assert (await Authenticator(SECRET).verify(token)).subject == "u1"


async def test_the_same_token_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0
    decode = jwt.decode

    def counting(*args: Any, **kwargs: Any) -> dict[str, Any]:
        nonlocal checks
        checks += 1
        return decode(*args, **kwargs)

    monkeypatch.setattr(auth.jwt, "decode", counting)
    authenticator = Authenticator(SECRET)
    token = make_token(SECRET, "u1")
    first = await authenticator.verify(token)
    assert await authenticator.verify(token) == first
    assert checks == 1


async def test_a_cached_token_ends_when_it_expires() -> None:
    now = time.time()
    authenticator = Authenticator(SECRET, clock=lambda: now)
    token = sign(exp=int(now) + 5)
    await authenticator.verify(token)
    cached_until = authenticator._cache.popitem()[1][0]
    assert cached_until <= int(now) + 5


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CACHE_SIZE", 3)
    authenticator = Authenticator(SECRET)
    for number in range(10):
        await authenticator.verify(make_token(SECRET, f"u{number}"))
    assert len(authenticator._cache) == 3


@pytest.mark.parametrize("secret", ["", "short", "s" * 31])
def test_a_short_secret_is_a_configuration_error_that_does_not_show_it(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Authenticator(secret)
    assert "32 bytes" in str(caught.value)
    assert not secret or secret not in str(caught.value)
    with pytest.raises(ConfigError):
        Authenticator(SECRET, secret)
    with pytest.raises(ConfigError):
        make_token(secret, "u1")


def test_an_authenticator_needs_something_to_check_with() -> None:
    with pytest.raises(ConfigError):
        Authenticator(None)


def test_no_secret_is_in_the_representation() -> None:
    assert SECRET not in repr(Authenticator(SECRET, OLD))


@pytest.mark.parametrize(("subject", "scope"), [("u1", "emit admin"), ("", None)])
def test_a_token_that_would_not_work_is_not_made(subject: str, scope: str | None) -> None:
    with pytest.raises(ConfigError):
        make_token(SECRET, subject, scope)
