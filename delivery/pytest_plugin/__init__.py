"""Fixtures of pytest for the tests of an application that uses Delivery.

pytest loads this module by itself where the package is installed (``-p no:delivery`` leaves it
out), so it imports nothing else of the package: what runs is loaded by the first test that asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from delivery.pytest_plugin.service import DeliveryService


@pytest.fixture
def delivery_settings() -> dict[str, Any]:
    """Settings of ``delivery_service``: override this fixture to choose some.

    Names are those of ``config/delivery.toml``, as ``{"policies": "policies.toml"}``. Neither the
    environment nor a settings file is read, so that no test reaches a service that they name.
    """
    return {}


@pytest.fixture
def delivery_longest_wait() -> float | None:
    """Seconds that each waiting time of the policies' chains has at most; ``None``: as written."""
    return 0.2


@pytest.fixture(scope="session")
def delivery_empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated ledger without events, which each test gets a copy of."""
    from delivery.pytest_plugin.service import make_ledger

    return make_ledger(tmp_path_factory.mktemp("delivery-ledger"))


@pytest.fixture
def delivery_service(
    delivery_settings: dict[str, Any],
    delivery_longest_wait: float | None,
    delivery_empty_ledger: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DeliveryService]:
    """A whole delivery in this process, on a port and in a directory of its own, for one test.

    Its mails and texts stay here; ``delivery_service.recorded`` shows them and the events.
    """
    from delivery.pytest_plugin.service import DeliveryService

    service = DeliveryService(
        tmp_path_factory.mktemp("delivery"),
        delivery_settings,
        longest_wait=delivery_longest_wait,
        ledger=delivery_empty_ledger,
    )
    service.start()
    try:
        yield service
    finally:
        service.stop()
