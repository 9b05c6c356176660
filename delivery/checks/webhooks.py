"""The checks of ``delivery check`` on the application's endpoints: their file and their addresses.

Never does: send anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from delivery.checks.findings import CONFIGURATION, Finding, ok, unreachable, warn, wrong
from delivery.config import Settings, load_webhooks
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.errors import ChannelRejected, ChannelUnavailable, ConfigError
from delivery.transports.addresses import require_public, resolve

TIMEOUT = 3.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Probe = Callable[[Settings], Finding | None]


def look_at_file(settings: Settings) -> Iterator[Finding]:
    """The file of the application's endpoints; their names are resolved beside the services."""
    try:
        endpoints = load_webhooks(settings)
    except ConfigError as error:
        yield wrong("webhooks", error)
        return
    plain = [
        one.name for one in endpoints if one.url.startswith("http://") and one.host not in LOOPBACK
    ]
    if plain:
        yield warn(
            "webhooks",
            f"{', '.join(plain)}: messages are sent over plain http",
            "use https, unless the way there is your own",
        )
    elif endpoints:
        yield ok("webhooks", f"{len(endpoints)} endpoints: {', '.join(e.name for e in endpoints)}")


def _probe_of(endpoint: Endpoint) -> Callable[[Settings], Finding]:
    """Look at the addresses that an endpoint's name has now."""

    def probe(settings: Settings) -> Finding:
        name, host = f"webhook {endpoint.name}", endpoint.host
        try:
            if endpoint.allow_private:
                resolve(host, TIMEOUT)
                return ok(name, f"{host} resolves")
            require_public(host, TIMEOUT)
        except ChannelRejected:
            what = f"{host} has an address that is not public: nothing is sent there"
            mend = f"set allow_private = true in [webhook.{endpoint.name}] if that is wanted"
            return Finding(name, "fail", what, mend, CONFIGURATION)
        except ChannelUnavailable as error:
            return unreachable(name, str(error), "correct its url, or wait for its DNS")
        return ok(name, f"{host} resolves to public addresses")

    return probe


def hosts(settings: Settings) -> list[Probe]:
    """A probe for each endpoint's name; none where the file is wrong, which is a finding itself."""
    try:
        return [_probe_of(endpoint) for endpoint in load_webhooks(settings)]
    except ConfigError:
        return []
