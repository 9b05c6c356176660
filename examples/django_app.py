"""Emit events from a Django view, in blocking code.

The connection is opened once per process and shared by its threads.
"""

import os
from functools import cache
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path

import delivery


@cache
def connection() -> Any:
    """One connection per process; it batches the events of all threads into few requests."""
    return delivery.connect_sync(os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"])


def start_run(request: HttpRequest, user: str, run: str) -> JsonResponse:
    emitter = connection().emitter(user, run)
    emitter.emit_agent_started("planner")
    receipt = emitter.emit_agent_completed("done")
    return JsonResponse({"run": run, "last_event": receipt.id})


urlpatterns = [path("users/<str:user>/runs/<str:run>", start_run)]
