"""A Django application: its connection, emitters of the signed-in user, and its page's token.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... DELIVERY_JWT_SECRET=... python django_app.py
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

from delivery.adapters.django import connection, emitter, token_view

if not settings.configured:  # yours has a file of settings
    settings.configure(
        ROOT_URLCONF=__name__,
        SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "of no use here"),
        ALLOWED_HOSTS=["*"],
        DELIVERY_URL=os.environ["DELIVERY_URL"],
        DELIVERY_TOKEN=os.environ["DELIVERY_TOKEN"],
        DELIVERY_JWT_SECRET=os.environ["DELIVERY_JWT_SECRET"],
    )


def current_user(request: HttpRequest) -> str | None:
    """Who is signed in. Without `user_of` below, it is Django's `request.user`."""
    return request.headers.get("X-User")


def start(request: HttpRequest, run_id: str) -> JsonResponse:
    """An agent's run of the user who asks."""
    run = emitter(request, run_id, user_of=current_user)
    run.emit_agent_started("planner")
    receipt = run.emit_agent_completed("done")  # returns once it is durable
    return JsonResponse({"run": run_id, "last_event": receipt.id})


def ship(request: HttpRequest, number: int) -> JsonResponse:
    """An event for another user than the one who asks."""
    receipt = connection().emitter("ada", f"order-{number}").emit("order_shipped", {})
    return JsonResponse({"event": receipt.id})


urlpatterns = [
    path("delivery-token", token_view(current_user)),
    path("runs/<run_id>", start),
    path("orders/<int:number>/ship", ship),
]

if __name__ == "__main__":
    execute_from_command_line([sys.argv[0], "runserver", "--noreload", "8000"])
