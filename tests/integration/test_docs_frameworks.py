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
import os
settings.configure(
    ROOT_URLCONF="django_shop", ALLOWED_HOSTS=["*"], SECRET_KEY="not used", USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    DELIVERY_JWT_SECRET="a secret that signs tokens in tests",
    **{name: os.environ[name] for name in ("DELIVERY_URL", "DELIVERY_TOKEN")},
)
django.setup()
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
import django_shop
answer = Client().post("/users/dora/orders/17/ship")
assert answer.status_code == 200, answer.content
assert Client().post("/runs/run-2").status_code == 403
assert Client().get("/delivery-token").status_code == 401
request = RequestFactory().get("/")
request.user = User(pk=17)
assert django_shop.start(request, "run-2").status_code == 200
answer = django_shop.token_view()(request)
assert answer.status_code == 200 and "no-store" in answer.headers["Cache-Control"]
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
    monkeypatch.setenv("DELIVERY_JWT_SECRET", "a secret that signs tokens in tests")
    with TestClient(run("fastapi_shop").app) as client:
        assert client.post("/users/fay/orders/17/ship").status_code == 200
        assert client.post("/runs/run-2").status_code == 401
        assert client.post("/runs/run-2", headers={"X-User": "17"}).status_code == 200
        token = client.get("/delivery-token", headers={"X-User": "17"})
        assert (token.status_code, token.headers["cache-control"]) == (200, "no-store")
    flask = run("flask_shop")
    page = flask.app.test_client()
    assert page.post("/users/finn/orders/17/ship").status_code == 200
    assert page.post("/runs/run-2").status_code == 401
    with page.session_transaction() as session:
        session["user_id"] = 17
    assert page.post("/runs/run-2").status_code == 200
    assert page.get("/delivery-token").headers["Cache-Control"] == "no-store"
    with flask.app.app_context():
        flask.delivery.close()
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
    started = delivery_service.recorded.events(user_id="17")
    assert [(one.type, one.run_id) for one in started] == [("agent_started", "run-2")] * 3
    for user in ("fay", "finn", "cleo", "dora"):
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
