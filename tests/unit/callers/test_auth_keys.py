"""Published keys: algorithm confusion, unknown ids, an issuer that is away."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from delivery.callers.auth import Authenticator
from delivery.callers.jwks import (
    FIRST_INTERVAL,
    KEEP_FOR,
    MAX_AGE,
    MIN_INTERVAL,
    KeySet,
    parse_keys,
)
from delivery.errors import ConfigError, KeysUnavailable, Unauthenticated
from tests.waiting import until

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, tuple[Any, Any]] = {
    "RS256": (RSA, RSAAlgorithm),
    "ES256": (EC, ECAlgorithm),
    "EdDSA": (ED, OKPAlgorithm),
}


def jwk(algorithm: str, kid: str | None = None, **more: Any) -> dict[str, Any]:
    key, kind = KEYS[algorithm]
    document = json.loads(kind.to_jwk(key.public_key()))
    return document | ({"kid": kid} if kid else {}) | more


def sign(algorithm: str, kid: str | None = None, **claims: Any) -> str:
    body = {"sub": "u1", "exp": int(time.time()) + 60} | claims
    headers = {"kid": kid} if kid else None
    return jwt.encode(body, KEYS[algorithm][0], algorithm, headers=headers)


class Issuer:
    """Stands in for the JWKS URL: what it answers, and how often it was asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.is_away = False
        self.now = 1_000.0

    async def fetch(self) -> Any:
        self.asked += 1
        if self.is_away:
            raise OSError("away")
        return {"keys": self.keys}

    def key_set(self) -> KeySet:
        key_set = KeySet("https://issuer/jwks", clock=lambda: self.now)
        key_set._fetch = self.fetch  # type: ignore[method-assign]
        return key_set

    def authenticator(self, secret: str | None = None, **options: Any) -> Authenticator:
        authenticator = Authenticator(secret, jwks_url="https://issuer/jwks", **options)
        authenticator._keys = self.key_set()
        return authenticator


@pytest.mark.parametrize("algorithm", list(KEYS))
async def test_a_token_of_a_published_key_is_accepted(algorithm: str) -> None:
    issuer = Issuer(*(jwk(name, name) for name in KEYS))
    principal = await issuer.authenticator().verify(sign(algorithm, algorithm))
    assert principal.subject == "u1"


@pytest.mark.parametrize("algorithm", list(KEYS))
async def test_a_token_without_key_id_finds_the_key_of_its_kind(algorithm: str) -> None:
    issuer = Issuer(*(jwk(name, name) for name in KEYS))
    assert (await issuer.authenticator().verify(sign(algorithm))).subject == "u1"


async def test_an_hmac_made_with_the_public_key_is_refused() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # PyJWT refuses to sign so; a forger would not use it.
    parts = [json.dumps({"alg": "HS256", "kid": "k"}), json.dumps({"sub": "u1", "exp": 9**12})]
    unsigned = b".".join(base64.urlsafe_b64encode(p.encode()).rstrip(b"=") for p in parts)
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    forged = unsigned + b"." + base64.urlsafe_b64encode(signature.sign(unsigned, pem)).rstrip(b"=")
    for authenticator in (issuer.authenticator(), issuer.authenticator("s" * 32)):
        with pytest.raises(Unauthenticated):
            await authenticator.verify(forged.decode())


async def test_a_published_symmetric_key_checks_nothing() -> None:
    secret = b"k" * 32
    issuer = Issuer({"kty": "oct", "kid": "k", "k": base64.urlsafe_b64encode(secret).decode()})
    token = jwt.encode({"sub": "u1", "exp": 9**12}, secret, "HS256", headers={"kid": "k"})
    with pytest.raises(Unauthenticated):
        await issuer.authenticator().verify(token)


async def test_a_key_of_another_kind_under_the_same_id_is_not_tried() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    with pytest.raises(Unauthenticated):
        await issuer.authenticator().verify(sign("ES256", "k"))


async def test_secrets_and_published_keys_work_side_by_side() -> None:
    authenticator = Issuer(jwk("RS256", "k")).authenticator("s" * 32)
    hmac_token = jwt.encode({"sub": "u2", "exp": 9**12}, "s" * 32, "HS256")
    assert (await authenticator.verify(hmac_token)).subject == "u2"
    assert (await authenticator.verify(sign("RS256", "k"))).subject == "u1"


async def test_an_unknown_key_id_asks_the_issuer_again_but_not_often() -> None:
    issuer = Issuer(jwk("RS256", "old"))
    keys = issuer.key_set()
    assert await keys.find("old", "RS256")
    issuer.keys = [jwk("RS256", "new")]
    assert await keys.find("new", "RS256") == []  # asked a moment ago
    issuer.now += MIN_INTERVAL
    assert await keys.find("new", "RS256")
    for number in range(20):
        assert await keys.find(f"made-up-{number}", "RS256") == []
    assert issuer.asked == 2


async def test_a_key_that_may_have_been_published_meanwhile_is_not_refused_for_good() -> None:
    issuer = Issuer(jwk("RS256", "old"))
    authenticator = issuer.authenticator()
    await authenticator.verify(sign("RS256", "old"))
    issuer.keys = [jwk("RS256", "new")]
    issuer.now += MIN_INTERVAL / 2
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.verify(sign("RS256", "new"))
    assert caught.value.close_code == 3006
    issuer.now += MIN_INTERVAL / 2
    assert (await authenticator.verify(sign("RS256", "new"))).subject == "u1"
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.verify(sign("RS256", "made-up"))
    assert caught.value.close_code == 3500


async def test_known_keys_stay_in_use_while_the_issuer_is_away() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    authenticator = issuer.authenticator()
    await authenticator.verify(sign("RS256", "k"))
    issuer.is_away = True
    issuer.now += MAX_AGE * 10
    assert (await authenticator.verify(sign("RS256", "k", sub="u2"))).subject == "u2"
    await authenticator.close()


async def test_a_removed_key_does_not_pass_once_more_after_a_quiet_time() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    keys = issuer.key_set()
    await keys.find("k", "RS256")
    issuer.now += MAX_AGE
    issuer.keys = []
    assert await keys.find("k", "RS256") == []
    assert issuer.asked == 2


async def test_keys_are_not_used_for_ever_while_the_issuer_is_away() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    authenticator = issuer.authenticator()
    principal = await authenticator.verify(sign("RS256", "k"))
    issuer.is_away = True
    issuer.now += KEEP_FOR
    with pytest.raises(KeysUnavailable) as caught:
        await authenticator.verify(sign("RS256", "k", sub="u2"))
    assert caught.value.close_code == 3006
    authenticator.check(principal)  # its connection may stay: no key was seen to be removed
    issuer.is_away = False
    issuer.now += MIN_INTERVAL
    assert (await authenticator.verify(sign("RS256", "k", sub="u2"))).subject == "u2"


async def test_what_a_removed_key_signed_is_refused_although_it_was_verified_before() -> None:
    issuer = Issuer(jwk("RS256", "k"), jwk("ES256", "other"))
    authenticator = issuer.authenticator()
    told: list[str] = []
    authenticator.watch(lambda: told.append("removed"))
    token = sign("RS256", "k")
    gone, stays = (
        await authenticator.verify(token),
        await authenticator.verify(sign("ES256", "other")),
    )
    issuer.keys = [jwk("ES256", "renamed")]  # the same key under another id is the same key
    issuer.now += MAX_AGE
    await authenticator.verify(sign("ES256", "renamed", sub="u2"))
    assert told == ["removed"]
    authenticator.check(stays)
    with pytest.raises(Unauthenticated, match="removed"):
        authenticator.check(gone)
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.verify(token)
    assert caught.value.close_code == 3500


async def test_keys_are_kept_fresh_although_no_token_asks_for_them() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    authenticator = issuer.authenticator()
    authenticator.start()
    try:
        await until(lambda: issuer.asked == 1)
    finally:
        await authenticator.close()


async def test_a_token_of_the_issuer_that_is_valid_for_too_long_is_refused() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    authenticator = issuer.authenticator(max_ttl=3_600.0)
    await authenticator.verify(sign("RS256", "k"))
    with pytest.raises(Unauthenticated, match="DELIVERY_JWT_MAX_TTL"):
        await authenticator.verify(sign("RS256", "k", exp=int(time.time()) + 4_000))


async def test_a_client_may_come_back_when_no_key_can_be_had_yet() -> None:
    issuer = Issuer(jwk("RS256", "k"))
    issuer.is_away = True
    authenticator = issuer.authenticator()
    with pytest.raises(KeysUnavailable) as caught:
        await authenticator.verify(sign("RS256", "k"))
    assert caught.value.close_code == 3006
    issuer.is_away = False
    issuer.now += FIRST_INTERVAL
    assert (await authenticator.verify(sign("RS256", "k"))).subject == "u1"


def test_what_is_no_signing_key_of_ours_is_left_out() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    p384 = ec.generate_private_key(ec.SECP384R1())
    document = {
        "keys": [
            jwk("RS256", "encryption", use="enc"),
            jwk("RS256", "other-algorithm", alg="PS256"),
            json.loads(RSAAlgorithm.to_jwk(weak.public_key())) | {"kid": "weak"},
            json.loads(ECAlgorithm.to_jwk(p384.public_key())) | {"kid": "other-curve"},
            {"kty": "RSA", "kid": "broken"},
            {"kty": ["RSA"]},
            "text",
            jwk("RS256", "good", use="sig", alg="RS256"),
        ]
    }
    assert [key.kid for key in parse_keys(document)] == ["good"]


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, "keys"])
def test_what_is_no_key_document_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        parse_keys(document)


def test_the_url_must_be_one() -> None:
    with pytest.raises(ConfigError):
        Authenticator(None, jwks_url="issuer/jwks")
