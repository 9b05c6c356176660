"""Link tokens: bound to one purpose, to one secret, to a time; never a bearer token."""

import base64

import jwt
import pytest

from delivery.callers.auth import Authenticator
from delivery.errors import ConfigError, LinkExpired, LinkInvalid, Unauthenticated
from delivery.links import CONFIRM, SHORT, UNSUBSCRIBE, LinkSigner
from delivery.tokens import make_token

SECRET = "s" * 32
OLD = "o" * 32
DIGEST = "019300b4-7a1e-7c3d-8f00-000000000001"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def make_signer(
    secret: str = SECRET, previous: str | None = None, clock: Clock | None = None, ttl: float = 100
) -> LinkSigner:
    return LinkSigner(secret, previous, "https://example.org/", ttl=ttl, clock=clock or Clock())


def token_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


def test_a_confirm_link_names_its_digest() -> None:
    signer = make_signer()
    url = signer.confirm_url(DIGEST)
    assert url.startswith("https://example.org/confirm/")
    claims = signer.read(token_of(url), CONFIRM)
    assert (claims.subject, claims.channel) == (DIGEST, None)


@pytest.mark.parametrize("user_id", ["u1", "ü/名 前", "a" * 128])
def test_an_unsubscribe_link_names_user_and_channel(user_id: str) -> None:
    signer = make_signer()
    url = signer.unsubscribe_url(user_id, "email")
    assert url.startswith("https://example.org/unsubscribe/")
    claims = signer.read(token_of(url), UNSUBSCRIBE)
    assert (claims.subject, claims.channel) == (user_id, "email")


def test_a_link_for_one_purpose_does_not_serve_another() -> None:
    signer = make_signer()
    with pytest.raises(LinkInvalid):
        signer.read(token_of(signer.confirm_url(DIGEST)), UNSUBSCRIBE)
    with pytest.raises(LinkInvalid):
        signer.read(token_of(signer.unsubscribe_url("u1", "email")), CONFIRM)


def test_every_changed_character_makes_a_link_invalid() -> None:
    signer = make_signer()
    token = token_of(signer.confirm_url(DIGEST))
    for index, old in enumerate(token):
        changed = token[:index] + ("A" if old != "A" else "B") + token[index + 1 :]
        with pytest.raises(LinkInvalid):
            signer.read(changed, CONFIRM)


@pytest.mark.parametrize("token", ["", "a", "ä", "A" * 27, "=" * 8, "A" * 5_000, "..", "a b"])
def test_nonsense_is_an_invalid_link(token: str) -> None:
    with pytest.raises(LinkInvalid):
        make_signer().read(token, CONFIRM)


def test_a_link_expires_at_the_end_of_its_time_and_not_before() -> None:
    clock = Clock()
    signer = make_signer(clock=clock)
    token = token_of(signer.confirm_url(DIGEST))
    clock.now += 99
    signer.read(token, CONFIRM)
    clock.now += 1
    with pytest.raises(LinkExpired):
        signer.read(token, CONFIRM)


def test_a_forged_link_is_invalid_even_when_it_says_that_it_expired() -> None:
    clock = Clock()
    token = token_of(make_signer("x" * 32, clock=clock).confirm_url(DIGEST))
    clock.now += 1_000
    with pytest.raises(LinkInvalid) as caught:
        make_signer(clock=clock).read(token, CONFIRM)
    assert not isinstance(caught.value, LinkExpired)


def test_links_of_the_previous_secret_work_and_of_the_one_before_do_not() -> None:
    token = token_of(make_signer(OLD).confirm_url(DIGEST))
    assert make_signer(SECRET, OLD).read(token, CONFIRM).subject == DIGEST
    with pytest.raises(LinkInvalid):
        make_signer(SECRET).read(token, CONFIRM)


async def test_a_link_token_is_no_bearer_token_and_a_bearer_token_no_link() -> None:
    signer = make_signer()
    with pytest.raises(Unauthenticated):
        await Authenticator(SECRET).verify(token_of(signer.confirm_url(DIGEST)))
    for bearer in (make_token(SECRET, "u1"), jwt.encode({"sub": "u1"}, SECRET, "HS256")):
        with pytest.raises(LinkInvalid):
            signer.read(bearer, CONFIRM)


def test_a_confirm_link_fits_a_text_message() -> None:
    assert len(token_of(make_signer().confirm_url(DIGEST))) <= 80


def test_a_short_secret_is_refused_and_no_secret_is_shown() -> None:
    with pytest.raises(ConfigError):
        make_signer("short")
    with pytest.raises(ConfigError):
        make_signer(SECRET, "short")
    assert SECRET not in repr(make_signer(SECRET, OLD))
    assert OLD not in repr(make_signer(SECRET, OLD))


def test_the_link_is_the_only_thing_in_the_token() -> None:
    token = token_of(make_signer().confirm_url(DIGEST))
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert raw[4:-16].decode() == DIGEST


def test_a_short_link_is_short_and_bound_to_its_digest_its_purpose_and_its_day() -> None:
    clock = Clock()
    signer = make_signer(clock=clock)
    token = token_of(signer.short_url(DIGEST))
    assert signer.short_url(DIGEST) == f"https://example.org/c/{token}"
    assert len(token) == 36
    assert signer.read(token, SHORT).subject == DIGEST
    for n in range(36):
        changed = token[:n] + ("A" if token[n] != "A" else "B") + token[n + 1 :]
        with pytest.raises(LinkInvalid):
            signer.read(changed, SHORT)
    for other in (token[:-4], token + "AAAA", "", token_of(signer.confirm_url(DIGEST))):
        with pytest.raises(LinkInvalid):
            signer.read(other, SHORT)
    with pytest.raises(LinkInvalid):
        signer.read(token, CONFIRM)
    with pytest.raises(LinkInvalid):
        make_signer(OLD).read(token, SHORT)
    assert make_signer(OLD, previous=SECRET, clock=clock).read(token, SHORT).subject == DIGEST
    clock.now += 2 * 86_400
    with pytest.raises(LinkExpired):
        signer.read(token, SHORT)


def test_a_digest_whose_id_is_no_uuid_has_the_usual_link() -> None:
    assert "/confirm/" in make_signer().short_url("digest-7")
