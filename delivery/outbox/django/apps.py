"""The app's name for Django."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """``delivery.outbox.django``, with the label ``delivery_outbox``."""

    name = "delivery.outbox.django"
    label = "delivery_outbox"
    verbose_name = "Outbox"
