"""The fixtures that an application's tests have: a delivery of their own, and what it recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import delivery
from delivery.errors import ConfigError
from delivery.pytest_plugin import (
    delivery_empty_ledger,
    delivery_longest_wait,
    delivery_service,
)
from delivery.pytest_plugin.service import DeliveryService

__all__ = ["delivery_empty_ledger", "delivery_longest_wait", "delivery_service"]

POLICIES = """
[class.orders]
types = ["order_shipped"]
[[class.orders.chain]]
channel = "direct"
after = 30.0
[[class.orders.chain]]
channel = "email"
after = 3_600.0
confirms = "link"
digest = { by = ["user_id"], window = 300.0, min_interval = 3600.0 }
[[class.orders.chain]]
channel = "sms"
after = 600.0
"""


@pytest.fixture
def delivery_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Policies of the application, beside an environment that names services of a production."""
    monkeypatch.setenv("DELIVERY_DATABASE_URL", "postgresql://app:secret@production/shop")
    monkeypatch.setenv("DELIVERY_SMTP_URL", "smtp://production")
    monkeypatch.setenv("DELIVERY_CONFIG", str(tmp_path / "no such file"))
    file = tmp_path / "policies.toml"
    file.write_text(POLICIES)
    return {"policies": file, "mail_from": "Shop <news@shop.example>"}


def test_a_chain_of_ones_own_runs_to_its_mail_and_its_text_within_the_test(
    delivery_service: DeliveryService,
) -> None:
    service, recorded = delivery_service, delivery_service.recorded
    service.remote.contacts.put("ada", email="ada@example.org", phone="+4930123456")
    receipt = service.remote.emitter("ada", "order-17").emit(
        "order_shipped", {"text": "Order 17 is on its way"}
    )
    mail = recorded.wait_mail("ada@example.org")
    assert mail.message["From"] == "Shop <news@shop.example>"
    assert "Order 17 is on its way" in mail.text
    assert any(link.startswith(f"{service.url}/confirm/") for link in mail.links)
    assert recorded.wait_text("+4930123456").body
    (event,) = recorded.events(user_id="ada")
    assert (event.id, event.event_class, event.run_id) == (receipt.id, "orders", "order-17")
    assert {"direct", "email"} <= {one["channel"] for one in event.attempts}
    assert recorded.mails("bob@example.org") == []
    with pytest.raises(AssertionError, match=r"no event with type 'refund'.*order_shipped of ada"):
        recorded.wait("refund", timeout=0.0)


def test_an_open_page_confirms(delivery_service: DeliveryService) -> None:
    service = delivery_service
    assert service.recorded.events() == []
    with service.client("ada") as page:
        receipt = service.remote.emitter("ada", "order-18").emit("order_shipped", {"order": 18})
        event = page.next(timeout=30)
        assert event is not None
        assert event.data == {"order": 18}
        page.ack(event)
        found = service.recorded.wait_confirmed(receipt.id)
    assert [one["channel"] for one in found.confirmations] == ["websocket"]
    with delivery.connect_sync(service.url, service.service_token) as d:
        assert d.event(receipt.id) is not None
    assert service.recorded.mails() == []


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_setting"):
        DeliveryService(tmp_path, {"no_such_setting": 1}, longest_wait=None)


def test_pytest_loads_nothing_of_the_package_before_a_test_asks() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import delivery.pytest_plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['delivery', 'delivery.pytest_plugin']"
