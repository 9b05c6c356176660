"""Django: a connection for each process, emitters of the signed-in user, and the page's token.

::

    # settings.py
    DELIVERY_URL = "http://127.0.0.1:8080"
    DELIVERY_TOKEN = service_token                  # text, or a function that gives it
    DELIVERY_JWT_SECRET = os.environ["DELIVERY_JWT_SECRET"]     # for the token route alone

    # urls.py
    urlpatterns = [path("delivery-token", token_view()), path("runs/<run_id>", start)]

    # views.py
    def start(request, run_id):
        emitter(request, run_id).emit_agent_started("researcher")

The first use in a process connects, also after a fork; threads share the connection, and what waits
is sent when the process ends. An event that must leave with a transaction goes through
``delivery.outbox.django``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from delivery.adapters.page_tokens import PageTokens, is_signed_in, required, user_id_of
from delivery.adapters.process import ProcessDelivery
from delivery.client.sync import BlockingEmitter, BlockingRemote
from delivery.errors import needs_extra
from delivery.tokens import DEFAULT_TTL

try:
    from django.conf import settings
    from django.core.exceptions import PermissionDenied
    from django.core.signals import setting_changed
    from django.http import HttpRequest, HttpResponseBase, JsonResponse
    from django.views.decorators.cache import never_cache
    from django.views.decorators.http import require_safe
except ImportError as missing:
    raise needs_extra("delivery.adapters.django needs Django", "django") from missing

__all__ = ["close", "connection", "emitter", "signed_in_user", "token_view"]

_NAMES = (
    "DELIVERY_URL",
    "DELIVERY_TOKEN",
    "DELIVERY_JWT_SECRET",
    "DELIVERY_JWT_AUDIENCE",
    "DELIVERY_JWT_ISSUER",
    "DELIVERY_TOKEN_TTL",
)
_made: dict[str, ProcessDelivery] = {}


def connection() -> BlockingRemote:
    """This process's connection, by ``DELIVERY_URL`` and ``DELIVERY_TOKEN`` of the settings.

    Raises:
        ConfigError: one of the two is missing, or the URL is none.
    """
    found = _made.get("delivery")
    if found is None:
        given = _given()
        # Of two threads that are here at once, one's object is kept; it connects when it is used.
        found = _made.setdefault(
            "delivery",
            ProcessDelivery(required(given, "DELIVERY_URL"), required(given, "DELIVERY_TOKEN")),
        )
    return found.connection()


def close() -> None:
    """Send what waits and disconnect; the next use connects anew. A process that ends does so by
    itself."""
    found = _made.pop("delivery", None)
    if found is not None:
        found.close()


def signed_in_user(request: HttpRequest) -> str | None:
    """The primary key of ``request.user``, ``None`` where no user is signed in."""
    user = getattr(request, "user", None)
    return str(user.pk) if user is not None and user.is_authenticated else None


UserOf = Callable[[HttpRequest], object]


def emitter(
    request: HttpRequest,
    run_id: object,
    thread_id: object = None,
    *,
    user_of: UserOf = signed_in_user,
) -> BlockingEmitter:
    """An emitter of the signed-in user, for one run.

    Args:
        run_id: text, or the number of a row; so for ``thread_id``, which may be missing.
        user_of: gives the id of the request's user.

    Raises:
        PermissionDenied: no user is signed in.
        InvalidContext: an id cannot address a user or a run; names it.
        ConfigError: see ``connection``.
    """
    user = user_of(request)
    if not is_signed_in(user):
        raise PermissionDenied("sign in first")
    thread = None if thread_id is None else str(thread_id)
    return connection().emitter(user_id_of(user), str(run_id), thread)


def token_view(user_of: UserOf = signed_in_user) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make the view that gives the signed-in user's page its token: ``{"token": …}``.

    It reads ``DELIVERY_JWT_SECRET`` of the settings, and ``DELIVERY_TOKEN_TTL`` (seconds),
    ``DELIVERY_JWT_AUDIENCE`` and ``DELIVERY_JWT_ISSUER`` where they are set. Without a user it
    answers 401, which a page can tell from a form to sign in.
    """

    def delivery_token(request: HttpRequest) -> HttpResponseBase:
        user = user_of(request)
        if not is_signed_in(user):
            return JsonResponse({"detail": "sign in first"}, status=401)
        return JsonResponse(_tokens().answer(user))

    view: Callable[[HttpRequest], HttpResponseBase] = require_safe(never_cache(delivery_token))
    return view


def _given() -> Mapping[str, Any]:
    return {name: getattr(settings, name, None) for name in _NAMES}


@functools.cache
def _tokens() -> PageTokens:
    given = _given()
    return PageTokens(
        required(given, "DELIVERY_JWT_SECRET"),
        given["DELIVERY_TOKEN_TTL"] or DEFAULT_TTL,
        given["DELIVERY_JWT_AUDIENCE"],
        given["DELIVERY_JWT_ISSUER"],
    )


def _on_setting(*, setting: str, **_signal: Any) -> None:
    """Tests change settings (``override_settings``): what was made from the old ones goes."""
    if setting in _NAMES:
        _tokens.cache_clear()
        close()


setting_changed.connect(_on_setting, dispatch_uid="delivery-settings")
