"""Flask: a connection for each process, emitters of the signed-in user, and the page's token.

::

    app.config.from_mapping(
        DELIVERY_URL="http://127.0.0.1:8080",
        DELIVERY_TOKEN=service_token,               # text, or a function that gives it
        DELIVERY_JWT_SECRET=secret,                 # for the token route alone
    )
    delivery = Delivery(app, current_user=lambda: session.get("user_id"))

    @app.post("/runs/<run_id>")
    def start(run_id):
        delivery.emitter(run_id).emit_agent_started("researcher")

The first use in a process connects, also after a fork; threads share the connection, and what waits
is sent when the process ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from delivery.adapters.page_tokens import (
    NO_STORE,
    PATH,
    PageTokens,
    is_signed_in,
    required,
    user_id_of,
)
from delivery.adapters.process import ProcessDelivery
from delivery.client.sync import BlockingEmitter, BlockingRemote
from delivery.errors import ConfigError, needs_extra
from delivery.tokens import DEFAULT_TTL

try:
    from flask import Flask, Response, abort, current_app, jsonify
except ImportError as missing:
    raise needs_extra("delivery.adapters.flask needs Flask", "flask") from missing

__all__ = ["Delivery"]

NAME = "delivery"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What one application has."""

    process: ProcessDelivery
    current_user: Callable[[], object] | None


class Delivery:
    """The extension; one may serve several applications.

    Args:
        app: the application, or ``init_app`` later.
        current_user: gives the id of the user who is signed in, ``None`` for no user. With it and
            ``DELIVERY_JWT_SECRET`` the application has the token route, at ``DELIVERY_TOKEN_PATH``
            (``/delivery-token``).

    Raises:
        ConfigError: see ``init_app``.
    """

    def __init__(
        self, app: Flask | None = None, *, current_user: Callable[[], object] | None = None
    ) -> None:
        self._current_user = current_user
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Serve this application.

        Raises:
            ConfigError: ``DELIVERY_URL`` or ``DELIVERY_TOKEN`` is missing in its configuration, the
                URL is none, or the secret is too short.
        """
        process = ProcessDelivery(
            required(app.config, "DELIVERY_URL"), required(app.config, "DELIVERY_TOKEN")
        )
        app.extensions[NAME] = _Parts(process, self._current_user)
        if self._current_user is not None and app.config.get("DELIVERY_JWT_SECRET"):
            self._add_token_route(app, self._current_user)

    def _add_token_route(self, app: Flask, current_user: Callable[[], object]) -> None:
        tokens = PageTokens(
            app.config["DELIVERY_JWT_SECRET"],
            app.config.get("DELIVERY_TOKEN_TTL") or DEFAULT_TTL,
            app.config.get("DELIVERY_JWT_AUDIENCE"),
            app.config.get("DELIVERY_JWT_ISSUER"),
        )

        def delivery_token() -> Response:
            user = current_user()
            if not is_signed_in(user):
                answer = jsonify(detail="sign in first")
                answer.status_code = 401
            else:
                answer = jsonify(tokens.answer(user))
            answer.headers.update(NO_STORE)
            return answer

        path = app.config.get("DELIVERY_TOKEN_PATH") or PATH
        app.add_url_rule(path, "delivery_token", delivery_token, methods=["GET"])

    @property
    def connection(self) -> BlockingRemote:
        """The current application's connection in this process."""
        return self._parts().process.connection()

    def emitter(self, run_id: object, thread_id: object = None) -> BlockingEmitter:
        """An emitter of the signed-in user, for one run; 401 where no user is signed in.

        Args:
            run_id: text, or the number of a row; so for ``thread_id``, which may be missing.

        Raises:
            InvalidContext: an id cannot address a user or a run; names it.
            ConfigError: the extension has no ``current_user``.
        """
        current_user = self._parts().current_user
        if current_user is None:
            raise ConfigError("Delivery(app, current_user=...) tells whose emitter this is")
        user = current_user()
        if not is_signed_in(user):
            abort(401)
        thread = None if thread_id is None else str(thread_id)
        return self.connection.emitter(user_id_of(user), str(run_id), thread)

    def close(self) -> None:
        """Send what waits and disconnect the current application; the next use connects anew. A
        process that ends does so by itself."""
        self._parts().process.close()

    def _parts(self) -> _Parts:
        found = current_app.extensions.get(NAME)
        if not isinstance(found, _Parts):
            raise ConfigError("Delivery(app) or delivery.init_app(app) comes first")
        return found
