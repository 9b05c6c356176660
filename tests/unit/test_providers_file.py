"""The providers file: what it means, which complaint a mistake gets, and that no secret shows."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from delivery import config
from delivery.bootstrap.callbacks import sms_tokens
from delivery.bootstrap.transports import make_providers, make_renderer
from delivery.checks.installation import check_all
from delivery.checks.providers import look_at_providers
from delivery.config import Settings, load_settings
from delivery.domain.messages.providers import parse_providers
from delivery.errors import ConfigError

SECRET = "a-very-secret-word"
SES = f"""
[provider.ses]
kind = "smtp"
url = "smtp://mail.example.org:587?tls=starttls"
user = "us"
password = "{SECRET}"
from = "Shop <shop@example.org>"
timeout = 20
rate = 14
"""
TEXTS = """
[provider.texts]
kind = "twilio"
url = "https://texts.example.org"
account = "AC1"
token_file = "token"
from = "+15005550006"
"""
STEP = """
[[class.orders.chain]]
channel = "{channel}"
providers = {providers}
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(SECRET + "\n")
    (tmp_path / "providers.toml").write_text(SES + TEXTS)
    (tmp_path / "policies.toml").write_text(STEP.format(channel="email", providers='["ses"]'))
    return load_settings(providers=Path("providers.toml"), policies=Path("policies.toml"))


def test_a_provider_has_its_values_and_defaults() -> None:
    found = parse_providers(tomllib.loads(SES + TEXTS))
    ses, texts = found.values()
    assert (ses.name, ses.channel, ses.timeout, ses.rate) == ("ses", "email", 20.0, 14.0)
    assert (texts.channel, texts.timeout, texts.rate) == ("sms", 10.0, 0.0)
    assert texts.secrets["token"].file == "token"
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('kind = "smtp"', 'kind = "pigeon"', r"provider\.ses\.kind: unknown kind; write one of"),
        ('kind = "smtp"', "", r"provider\.ses\.kind: is missing"),
        ('url = "smtp', '# "', r"provider\.ses\.url: is missing"),
        ("timeout = 20", "timeout = 61", r"provider\.ses\.timeout: .* from 1 to 60"),
        ("timeout = 20", "timeout = true", r"provider\.ses\.timeout"),
        ("rate = 14", "rate = 0", r"provider\.ses\.rate: .* from 0.001 to 1000"),
        ("rate = 14", "rate = nan", r"provider\.ses\.rate"),
        (
            "rate = 14",
            "raet = 14",
            r"provider\.ses\.raet: unknown key; known here: .*password_file",
        ),
        ("rate = 14", 'password_file = "x"', r"password and password_file are both set"),
        ('user = "us"', "", r"provider\.ses\.user: is missing: user and password go together"),
        ("[provider.ses]", "[provider.SES]", r"provider\.SES: a provider's name has"),
        ("[provider.ses]", "[provider.email]", r"provider\.email: .*not a channel's"),
        ("[provider.ses]", "[supplier.ses]", r"supplier: unknown key"),
    ],
)
def test_a_mistake_names_its_key(old: str, new: str, complaint: str) -> None:
    assert old in SES
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_providers(tomllib.loads(SES.replace(old, new)), source="providers.toml")
    assert str(caught.value).startswith("providers.toml: ")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("channel", "providers", "complaint"),
    [
        (
            "email",
            '["postmark"]',
            r"step email\.providers: no provider 'postmark' .*known: ses, texts",
        ),
        ("email", '["texts"]', r"'texts' is of kind twilio, which is for steps of sms, not email"),
        ("email", "[]", r"chain\[0\]\.providers: must list 1 to 4 providers"),
        ("email", '["ses", "ses"]', r"each once"),
        ("email", '"ses"', r"must be a list of strings"),
        ("direct", '["ses"]', r"only steps of email and sms have providers"),
    ],
)
def test_a_policy_names_providers_that_are_there(
    settings: Settings, channel: str, providers: str, complaint: str
) -> None:
    Path("policies.toml").write_text(STEP.format(channel=channel, providers=providers))
    with pytest.raises(ConfigError, match=complaint):
        config.load_policies(settings)


def test_providers_of_a_step_have_the_time_of_one_attempt(settings: Settings) -> None:
    Path("providers.toml").write_text(SES.replace("20", "40") + SES.replace(".ses", ".two"))
    policies = STEP.format(channel="email", providers='["ses", "two"]')
    Path("policies.toml").write_text(policies)
    config.load_policies(settings)
    Path("providers.toml").write_text(SES.replace("20", "41") + SES.replace(".ses", ".two"))
    with pytest.raises(ConfigError, match="61 seconds together; an attempt has 60"):
        config.load_policies(settings)


def test_check_names_what_is_unused_and_what_cannot_be_read(settings: Settings) -> None:
    assert [(one.level, one.found) for one in look_at_providers(settings, None)] == [
        ("ok", "values and secrets of ses, texts can be read"),
        ("warn", "defined, and named by no step: texts"),
    ]
    Path("token").unlink()
    wrong = [one for one in look_at_providers(settings, None) if one.level == "fail"]
    assert ["provider.texts.token_file: cannot read token" in one.found for one in wrong] == [True]
    assert wrong[0].code == 2
    of_mails = look_at_providers(settings, frozenset({"email"}))
    assert "fail" not in {one.level for one in of_mails}, "a worker of mails needs no token"
    Path("providers.toml").write_text(SES.replace("smtp://mail", f"http://u:{SECRET}@mail"))
    [bad, *_] = look_at_providers(settings, None)
    assert bad.level == "fail"
    assert "provider.ses.url cannot be read; write smtp://" in bad.found
    assert SECRET not in bad.found


def test_check_of_one_kind_of_process_reports_a_malformed_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("providers.toml").write_text("[provider.ses]")
    monkeypatch.setenv("DELIVERY_PROVIDERS", "providers.toml")
    wrong = [one for one in check_all("worker", ("email",)) if one.what == "providers"]
    assert [one.found for one in wrong] == [
        "providers.toml: provider.ses.kind: is missing; write one of smtp, twilio"
    ]


def test_a_process_that_lacks_a_secret_goes_without_and_its_channels_worker_does_not_start(
    settings: Settings,
) -> None:
    Path("token").write_text("")
    assert list(make_providers(settings, make_renderer(settings))) == ["ses"]
    config.require_providers(settings, {"email"})
    with pytest.raises(ConfigError, match=r"token_file: token is empty"):
        config.require_providers(settings, {"sms"})


def test_callbacks_are_checked_with_the_token_of_every_provider(settings: Settings) -> None:
    assert sms_tokens(settings) == (SECRET,)


def test_links_need_a_secret_where_a_provider_sends_them(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_LINK_SECRET"):
        config.require_links(settings, frozenset({"email"}))


def test_the_shipped_file_is_an_example_that_can_be_read() -> None:
    shipped = Path(__file__).parents[2] / "config" / "providers.toml"
    text = shipped.read_text()
    assert parse_providers(tomllib.loads(text)) == {}
    lines = [line.removeprefix("# ") for line in text.splitlines() if not line.startswith("# DELI")]
    start = lines.index("[provider.ses]")
    found = parse_providers(tomllib.loads("\n".join(line.strip("#") for line in lines[start:])))
    assert list(found) == ["ses", "postmark", "twilio"]
