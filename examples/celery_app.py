"""Emit events from your own Celery tasks. Delivery's workers are a separate application.

Each worker process opens its connection after the fork.
"""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

import delivery

app = Celery("research", broker=os.environ.get("CELERY_BROKER_URL", "memory://"))
connections: list[Any] = []


@worker_process_init.connect
def open_connection(**_: Any) -> None:
    connections.append(
        delivery.connect_sync(os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"])
    )


@worker_process_shutdown.connect
def close_connection(**_: Any) -> None:
    connections.pop().close()


@app.task
def research(user: str, run: str, question: str) -> str:
    """A long job whose user receives its progress."""
    emitter = connections[0].emitter(user, run)
    emitter.emit_agent_started("researcher")
    emitter.emit_tool_executing("search", {"query": question})
    receipt = emitter.emit_agent_completed("42")
    return str(receipt.id)
