"""pytest-celery's setup, with processes (`tests/celery`) and with containers (`tests/docker`)."""

from __future__ import annotations

from typing import Any

from celery import Celery
from pytest_celery import CeleryTestSetup

from delivery.tasks.broker.app import is_rabbitmq, make_app


class DeliverySetup(CeleryTestSetup):
    """pytest-celery's setup with this project's app."""

    @classmethod
    def name(cls) -> str:
        return "delivery"

    @classmethod
    def create_setup_app(
        cls, celery_setup_config: dict[str, Any], celery_setup_app_name: str
    ) -> Celery:
        url = celery_setup_config["broker_url"]
        app = make_app(url, quorum_queues=is_rabbitmq(url))
        app.finalize()
        return app
