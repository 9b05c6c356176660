"""The curl lines of the site's HTTP reference, each run as it stands against a service."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import Request, urlopen

import pytest

from delivery.links import LinkSigner
from delivery.pytest_plugin import (
    delivery_empty_ledger,
    delivery_longest_wait,
    delivery_service,
)
from delivery.pytest_plugin.service import DeliveryService
from tests.docs_blocks import ROOT
from tests.waiting import until_blocking

__all__ = ["delivery_empty_ledger", "delivery_longest_wait", "delivery_service"]

OPERATION = re.compile(r"### `([A-Z]+) (\S+)`\n(?:(?!###).)*?```bash\n(.*?)```", re.S)
STREAMS = ("/v1/stream", "/v1/stats/stream")
OTHERS = {
    "GET /v1/push/key": "404",
    "DELETE /v1/suppressions/{address}": "404",
    "POST /v1/events/{id}/replay": "409",
}
"""Answers about a key that is not set, an address that is not suppressed, and an event that is
confirmed by now."""


@pytest.fixture
def site() -> ModuleType:
    """docs/make_site.py."""
    spec = importlib.util.spec_from_file_location("make_site", ROOT / "docs/make_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def delivery_settings(tmp_path: Path) -> dict[str, Any]:
    """A webhook that a replay may be asked of."""
    file = tmp_path / "webhooks.toml"
    file.write_text(
        '[webhook.shop]\nurl = "http://127.0.0.1:9/"\nallow_private = true\n'
        'secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"\n'
    )
    return {"webhooks": file}


def answered(line: str, path: str, names: dict[str, str]) -> str:
    """The status that a line of a shell gets."""
    limit = 1 if path in STREAMS else 60
    asked = line.replace("curl ", f"curl -m {limit} -o /dev/null -w '%{{http_code}}' ", 1)
    done = subprocess.run(["bash", "-c", asked], env=names, capture_output=True, text=True)
    assert done.returncode == (28 if path in STREAMS else 0), (line, done.stderr)
    return done.stdout


def sent_message(service: DeliveryService, event_id: str) -> str:
    """The id of the message about an event, which is recorded with its attempt."""
    asked = Request(
        f"{service.url}/v1/events/{event_id}/messages",
        headers={"Authorization": f"Bearer {service.service_token}"},
    )

    def found() -> list[dict[str, Any]]:
        with urlopen(asked, timeout=60) as answer:
            return list(json.load(answer)["messages"])

    until_blocking(found, 60)
    return str(found()[0]["id"])


def test_every_example_of_the_http_reference_is_answered(
    site: ModuleType, delivery_service: DeliveryService
) -> None:
    remote, recorded = delivery_service.remote, delivery_service.recorded
    address = "ada@example.org"
    remote.contacts.put("ada", email=address)
    told = remote.emitter("ada", "order-17").emit("agent_completed", {"title": "Order 17"})
    digest = str(recorded.wait_mail(address, timeout=60).message["Message-ID"]).strip("<>")
    digest = digest.partition("@")[0]
    links = LinkSigner(delivery_service.secret, None, delivery_service.url)
    tokens = {
        "/confirm/": links.confirm_url(digest),
        "/c/": links.short_url(digest),
        "/unsubscribe/": links.unsubscribe_url("ada", "email"),
        "/verify/": links.verify_url("ada", "email", address),
    }
    names = {
        **delivery_service.environment,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "CLIENT_TOKEN": delivery_service.token("ada"),
        "ID": told.id,
        "MESSAGE": sent_message(delivery_service, told.id),
        "NAME": "shop",
        "ADDRESS": address,
        "SLUG": "not-found",
        "VERSION": "0",
    }
    shown = OPERATION.findall(site.http_page())
    assert len(shown) > 40
    # A replay makes the links of before void, and deletions and revocations what they name.
    shown.sort(key=lambda one: (one[0] == "DELETE", "revoke" in one[1], "replay" in one[1]))
    for method, path, line in shown:
        start = next((one for one in tokens if path.startswith(one)), None)
        token = {} if start is None else {"TOKEN": tokens[start].rpartition("/")[2]}
        status = answered(line, path, names | token)
        good = OTHERS.get(f"{method} {path}", r"2\d\d|30\d")
        assert re.fullmatch(good, status), (line, status)


def test_a_page_that_the_navigation_lacks_fails_the_build(
    site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.main(tmp_path / "site")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "config").mkdir()
    for name in ("mkdocs.yml", "CHANGELOG.md", "config/delivery.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "docs/lost.md").write_text("# Lost")
    with pytest.raises(SystemExit, match=r"not in the navigation of mkdocs.yml: lost.md"):
        site.main(tmp_path / "site")
