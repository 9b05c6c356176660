"""The applications that docs/frameworks.md and docs/transports.md show, run as they stand."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from delivery.domain.event import EventClass
from delivery.pytest_plugin import (
    delivery_empty_ledger,
    delivery_longest_wait,
    delivery_service,
    delivery_settings,
)
from delivery.pytest_plugin.service import DeliveryService
from tests.docs_blocks import ROOT, files

__all__ = [
    "delivery_empty_ledger",
    "delivery_longest_wait",
    "delivery_service",
    "delivery_settings",
]

SHOWN = files("docs/frameworks.md") | files("docs/transports.md")
DJANGO = """
import django
from django.conf import settings
settings.configure(ROOT_URLCONF="django_shop", ALLOWED_HOSTS=["*"], SECRET_KEY="not used")
django.setup()
from django.test import Client
import django_shop
answer = Client().post("/users/dora/orders/17/ship")
assert answer.status_code == 200, answer.content
django_shop.connection().close()
"""


def run(name: str) -> Any:
    """A file of a page, as a module."""
    module = types.ModuleType(name)
    exec(compile(SHOWN[f"{name}.py"], f"{name}.py", "exec"), vars(module))
    return module


def test_each_framework_tells_of_an_order(
    delivery_service: DeliveryService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in delivery_service.environment.items():
        monkeypatch.setenv(name, value)
    with TestClient(run("fastapi_shop").app) as client:
        assert client.post("/users/fay/orders/17/ship").status_code == 200
    celery = run("celery_shop")
    celery.open_connection()
    celery.ship("cleo", 17)
    celery.close_connection()
    (tmp_path / "django_shop.py").write_text(SHOWN["django_shop.py"])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    done = subprocess.run(
        [sys.executable, "-c", DJANGO], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for user in ("fay", "cleo", "dora"):
        (event,) = delivery_service.recorded.events(user_id=user)
        assert (event.type, event.run_id, event.data) == (
            "order_shipped",
            "order-17",
            {"order": 17},
        )
        assert event.event_class == EventClass.STANDARD


def test_the_adapter_for_an_sms_provider_answers_as_twilio_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = types.ModuleType("myprovider")
    provider.Refused = type("Refused", (Exception,), {})
    provider.Unavailable = type("Unavailable", (Exception,), {})
    sent: list[tuple[str, str]] = []

    async def send(to: str, text: str) -> str:
        if to == "+491":
            raise provider.Refused("no such number")
        if to == "+492":
            raise provider.Unavailable
        sent.append((to, text))
        return "id-1"

    provider.send = send
    monkeypatch.setitem(sys.modules, "myprovider", provider)
    monkeypatch.setenv("SMS_TOKEN", "secret")
    client = TestClient(run("sms_adapter").app)

    def post(to: str, **more: Any) -> tuple[int, Any]:
        path = "/2010-04-01/Accounts/AC1/Messages.json"
        answer = client.post(path, data={"To": to, "Body": "Order 17 & more"}, **more)
        return answer.status_code, answer.json()

    assert post("+4930123456")[0] == 401
    assert post("+4930123456", auth=("AC1", "wrong"))[0] == 401
    assert post("+4930123456", auth=("AC1", "secret")) == (201, {"sid": "id-1", "status": "queued"})
    assert sent == [("+4930123456", "Order 17 & more")]
    assert post("+491", auth=("AC1", "secret"))[0] == 400
    assert post("+492", auth=("AC1", "secret"))[0] == 503
