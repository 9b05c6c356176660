"""Keys of callbacks from settings: by variable, by file, and what ``delivery check`` says."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from delivery.bootstrap.callbacks import make_callback_keys
from delivery.bootstrap.transports import providers_of
from delivery.cli import main
from delivery.config import load_settings

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
GOOD = {
    "SES_TOPIC_ARN": "arn:aws:sns:eu-west-1:123456789012:mail",
    "SENDGRID_PUBLIC_KEY": base64.b64encode(
        KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode(),
    "MAILGUN_SIGNING_KEY": "0123456789abcdef",
    "POSTMARK_BASIC_AUTH": "postmark:secret",
    "RESEND_SECRET": "whsec_" + base64.b64encode(b"r" * 24).decode(),
}
BAD = {
    "SES_TOPIC_ARN": "mail",
    "SENDGRID_PUBLIC_KEY": "c2VjcmV0",
    "MAILGUN_SIGNING_KEY": "two words\t",
    "POSTMARK_BASIC_AUTH": "secret",
    "RESEND_SECRET": "whsec_%",
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELIVERY_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def test_each_key_may_stand_in_a_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        (directory / name).write_text(value + "\n")
        monkeypatch.setenv(f"DELIVERY_{name}_FILE", str(directory / name))
    settings = load_settings()
    keys = make_callback_keys(settings)
    assert None not in (keys.ses, keys.sendgrid, keys.mailgun, keys.postmark, keys.resend)
    assert providers_of(settings) == ("ses", "sendgrid", "mailgun", "postmark", "resend")


def test_without_settings_there_is_no_key() -> None:
    keys = make_callback_keys(load_settings())
    assert {keys.ses, keys.sendgrid, keys.mailgun, keys.postmark, keys.resend} == {None}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_the_check_says_whether_a_key_can_be_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for values, level in ((GOOD, "ok"), (BAD, "fail")):
        monkeypatch.setenv(f"DELIVERY_{name}", values[name])
        result = CliRunner().invoke(main, ["check", "--json"])
        [finding] = [one for one in json.loads(result.output) if one["what"] == "callbacks"]
        assert finding["level"] == level
        assert (f"DELIVERY_{name}" in finding["found"]) == (level == "fail")
        assert level == "ok" or f" {values[name]} " not in f" {finding['found']} "


def test_the_tokens_of_providers_are_read_anew(directory: Path) -> None:
    (directory / "config").mkdir()
    (directory / "config/providers.toml").write_text(
        '[provider.texts]\nkind = "twilio"\nurl = "https://sms.example.org"\naccount = "A"\n'
        'from = "+4915112345"\ntoken_file = "token"\n'
    )
    settings = load_settings()
    for token in ("one-token", "another-token"):  # what a reload does with the settings of before
        (directory / "config/token").write_text(token)
        assert make_callback_keys(settings).sms_tokens == (token,)
