"""The reference that a mail carries for its provider."""

from __future__ import annotations

import json

import pytest

from delivery.transports.mail.reference import providers_for, reference_headers

ID = "<0192f000-0000-7000-8000-000000000001@example.org>"
KEY = "0192f000-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("host", "used", "expected"),
    [
        ("email-smtp.eu-west-1.amazonaws.com", (), ("ses",)),
        ("email-smtp-fips.us-gov-west-1.amazonaws.com", (), ("ses",)),
        ("SMTP.sendgrid.net", (), ("sendgrid",)),
        ("smtp.eu.mailgun.org", (), ("mailgun",)),
        ("smtp.postmarkapp.com", (), ("postmark",)),
        ("relay.example.org", ("ses", "resend"), ("ses",)),
        ("smtp.sendgrid.net", ("postmark",), ("sendgrid", "postmark")),
        ("smtp.sendgrid.net.example.org", (), ()),
        ("127.0.0.1", (), ()),
    ],
)
def test_the_server_and_the_settings_say_which_header_a_mail_needs(
    host: str, used: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert providers_for(host, used) == expected


def test_each_header_is_in_its_providers_form() -> None:
    found = reference_headers(("ses", "sendgrid", "mailgun", "postmark"), ID)
    values = {name: line.removeprefix(f"{name}: ").rstrip() for name, line in found.items()}
    assert values["X-SES-MESSAGE-TAGS"] == f"delivery-reference={KEY}"
    assert json.loads(values["X-SMTPAPI"]) == {"unique_args": {"delivery-reference": KEY}}
    assert json.loads(values["X-Mailgun-Variables"]) == {"delivery-reference": KEY}
    assert values["X-PM-Metadata-delivery-reference"] == KEY


def test_a_server_of_no_known_provider_gets_none() -> None:
    assert reference_headers((), ID) == {}
