"""The reference that a mail carries for its provider, which sends it back with every report.

Owns: the header of each provider, and which one a mail needs. Never does: know a report.

A provider that replaces the ``Message-ID`` (Amazon SES, Postmark) leaves nothing else by which a
report and its mail are matched. The reference is the left part of our ``Message-ID``, so a header
tells its reader nothing new.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping

from delivery.transports.mail.headers import fixed_header

NAME = "delivery-reference"

_HOSTS = (
    (re.compile(r"email-smtp(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?"), "ses"),
    (re.compile(r"smtp\.(eu\.)?sendgrid\.net"), "sendgrid"),
    (re.compile(r"smtp(\.[a-z]{2,3})?\.mailgun\.org"), "mailgun"),
    (re.compile(r"smtp(-broadcasts)?\.postmarkapp\.com"), "postmark"),
)
_HEADERS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "ses": ("X-SES-MESSAGE-TAGS", lambda key: f"{NAME}={key}"),
    "sendgrid": ("X-SMTPAPI", lambda key: json.dumps({"unique_args": {NAME: key}})),
    "mailgun": ("X-Mailgun-Variables", lambda key: json.dumps({NAME: key})),
    "postmark": (f"X-PM-Metadata-{NAME}", lambda key: key),
}


def providers_for(host: str, used: Collection[str]) -> tuple[str, ...]:
    """The providers whose header a mail needs: those whose callbacks are set up, since a mail may
    pass a relay on its way to them, and the one whose server this is.

    Args:
        host: of the SMTP server.
        used: names of providers whose callbacks are set up.
    """
    own = {name for pattern, name in _HOSTS if pattern.fullmatch(host.lower())}
    return tuple(name for name in _HEADERS if name in own or name in used)


def reference_headers(providers: Collection[str], message_id: str) -> dict[str, str]:
    """Fields with the reference of a mail, each with its line end.

    Args:
        message_id: of the mail, in angle brackets.
    """
    key = message_id.strip("<>").partition("@")[0]
    found = (_HEADERS[name] for name in providers if name in _HEADERS)
    return {name: fixed_header(name, value(key)) for name, value in found}
