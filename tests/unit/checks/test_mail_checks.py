"""What `delivery check` says about messages: links, looks, steps without a transport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from delivery.checks.findings import Finding
from delivery.checks.installation import check_all
from delivery.checks.mails import look_at_messages
from delivery.config import load_settings

SMTP = "smtp://mail.example.org:587"
PUBLIC = {"public_url": "https://events.example.org", "app_url": "https://app.example.org"}


def found(**settings: Any) -> dict[str, Finding]:
    return {one.what: one for one in look_at_messages(load_settings(**settings))}


def test_each_step_without_a_transport_is_named() -> None:
    chain = found(database_url="postgresql://h/d", smtp_url=SMTP, **PUBLIC)["chain"]
    assert chain.level == "warn"
    assert "critical: sms" in chain.found
    assert "critical: alert" in chain.found
    assert "email" not in chain.found
    assert "DELIVERY_SMS_URL" in chain.mend
    assert "DELIVERY_ALERTMANAGER_URL" in chain.mend
    everything = {"channels": ("email", "sms"), "alertmanager_url": "http://a:9093"}
    assert found(database_url="postgresql://h/d", **everything, **PUBLIC)["chain"].level == "ok"
    assert "critical: alert" in found()["chain"].found
    assert found()["chain"].level == "ok"  # development: said, and no finding


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8080", "https://10.0.0.7", "https://[::1]:8443", "https://events.local"],
)
def test_a_public_url_that_mails_could_not_reach_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELIVERY_PUBLIC_URL", url)
    levels = {one.what: one for one in check_all()}
    assert "where mails are read" not in levels["public_url"].found
    monkeypatch.setenv("DELIVERY_CHANNELS", "email")
    told = {one.what: one for one in check_all()}["public_url"]
    assert (told.level, "where mails are read" in told.found) == ("warn", True)


def test_a_process_answers_for_the_messages_that_it_sends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "PUBLIC_URL": "http://localhost:8080",
        "DATABASE_URL": "postgresql+psycopg://h.invalid/d",
        "CHANNELS": "email",
    }.items():
        monkeypatch.setenv(f"DELIVERY_{name}", value)

    def told(smtp: str, *queues: str) -> set[str]:
        monkeypatch.setenv("DELIVERY_SMTP_URL", smtp)
        kind = "worker" if queues else "gateway"
        return {one.what for one in check_all(kind, queues) if one.level == "warn"}

    mine = {"public_url", "app_url", "chain"}
    assert not told("smtp://mail.example.org", *()) & mine
    assert told("smtp://mail.example.org", "email") & mine == {"public_url", "app_url"}
    assert not told("smtp://mailpit:1025", "email") & mine  # a sink beside it
    assert told("smtp://mailpit:1025", "email", "sms") & mine == {"chain"}


def test_without_an_application_mails_lead_nowhere() -> None:
    assert found(channels=("email",))["app_url"].level == "warn"
    assert found(channels=("email",), app_url="http://localhost:3000")["app_url"].level == "warn"
    assert found(channels=("email",), **PUBLIC)["app_url"].level == "ok"


def test_a_look_or_an_address_that_is_of_no_use_is_named(tmp_path: Path) -> None:
    (tmp_path / "types").mkdir()
    (tmp_path / "types/a.html").write_text("{% if %}")
    assert "types/a.html" in found(templates=tmp_path)["templates"].found
    told = found(mail_reply_to="nobody")["messages"]
    assert (told.level, "DELIVERY_MAIL_REPLY_TO" in told.found) == ("fail", True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brand_color", "red"),
        ("brand_name", "x" * 61),
        ("brand_name", "a\nb"),
        ("brand_logo_url", "javascript:x"),
        ("app_url", "app.example.org"),
        ("link_origins", "https://a.example/path"),
        ("link_origins", "app://x"),
        ("link_origins", "*"),
        ("mail_footer", "x" * 501),
        ("sms_from", "A name too long"),
        ("sms_from", "Größe"),
        ("sms_from", "12"),
    ],
)
def test_a_setting_of_the_brand_is_checked(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"DELIVERY_{name.upper()}", value)
    (told,) = check_all()
    assert (told.level, told.what) == ("fail", "settings")
    assert f"DELIVERY_{name.upper()}" in told.found
