"""The worker's consumer, without the queues for delayed messages.

Owns: which of Celery's consumer steps run. Never does: anything of its own; delays stand in the
ledger, so nothing here is ever published with an ETA.
"""

from __future__ import annotations

from celery.worker import consumer

DELAYED_DELIVERY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class Consumer(consumer.Consumer):
    """Celery's consumer; on quorum queues it would declare 28 replicated queues for ETAs."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc, valid-type]
        """The steps of a worker."""

        default_steps = [  # noqa: RUF012 - Celery's own is a list
            step for step in consumer.Consumer.Blueprint.default_steps if step != DELAYED_DELIVERY
        ]
