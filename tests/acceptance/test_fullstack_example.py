"""``examples/fullstack``: a user signs in, orders, and is told by page or by mail."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi.testclient import TestClient

import delivery
from delivery.pytest_plugin import (
    delivery_empty_ledger,
    delivery_longest_wait,
    delivery_service,
)
from delivery.pytest_plugin.service import DeliveryService
from tests.docs_blocks import files

__all__ = ["delivery_empty_ledger", "delivery_longest_wait", "delivery_service"]

FOLDER = Path(__file__).parents[2] / "examples/fullstack"


@pytest.fixture
def delivery_settings() -> dict[str, Any]:
    """The settings that the example starts delivery with."""
    return {
        "policies": FOLDER / "policies.toml",
        "mail_from": "Shop <news@shop.example>",
        "brand_name": "Shop of Ada",
        "app_url": "https://shop.example",
    }


@pytest.fixture
def shop(
    delivery_service: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """The shop, beside a delivery of its own; packing takes no time."""
    for name, value in {**delivery_service.environment, "SHOP_PACKING": "0"}.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("fullstack_app", FOLDER / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with TestClient(module.app) as client:
        yield client


def test_a_user_is_told_by_page_while_it_is_open_and_by_mail_afterwards(
    shop: TestClient, delivery_service: DeliveryService
) -> None:
    recorded = delivery_service.recorded
    assert shop.get("/delivery-token").status_code == 401
    assert shop.post("/orders").status_code == 401
    assert shop.post("/sign-in", json={"user": "ada", "email": "no address"}).status_code == 422
    answer = shop.post("/sign-in", json={"user": "ada", "email": "ada@example.org"})
    assert answer.status_code == 200, answer.text
    assert "client.js" in shop.get("/").text

    told = shop.get("/delivery-token").json()
    assert "scope" not in jwt.decode(told["token"], options={"verify_signature": False})
    with delivery.BlockingClient(told["url"], told["token"]) as page:
        assert shop.post("/orders").json() == {"order": 1}
        for kind in ("order_paid", "order_shipped"):
            event = page.next(timeout=30)
            assert event is not None
            assert (event.type, event.event_class) == (kind, "orders")
            page.ack(event)
        recorded.wait("order_shipped", state="confirmed")
    assert recorded.mails() == []

    assert shop.post("/orders").json() == {"order": 2}
    mail = recorded.wait_mail("ada@example.org")
    assert mail.message["From"] == "Shop <news@shop.example>"
    for part in (mail.text, mail.html):
        assert "Shop of Ada" in part
        assert "Order 2" in part
    assert any(link.startswith("https://shop.example/#order-2") for link in mail.links), mail.links
    assert {one.run_id for one in recorded.events(user_id="ada")} == {"order-1", "order-2"}


def test_the_page_about_the_first_integration_shows_the_files_of_the_example() -> None:
    shown = files("docs/first-integration.md")
    assert set(shown) == {"app.py", "page.html", "policies.toml"}
    for name, text in shown.items():
        assert text == (FOLDER / name).read_text(encoding="utf-8"), name
