"""FastAPI: a connection for as long as the application lives, emitters, and the page's token.

::

    app = FastAPI(lifespan=lifespan("http://127.0.0.1:8080", service_token))
    app.include_router(token_router(current_user, secret))

    @app.post("/runs/{run_id}")
    async def start(emitter: Annotated[Emission, Depends(emitter_of(current_user))]) -> None:
        await emitter.emit_agent_started("researcher")

``current_user`` is the application's own dependency: the id of the user who is signed in. It may
refuse by itself, or give ``None``, which is answered by 401.
"""

# No postponed annotations here: FastAPI reads those of the functions that are made below.
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from delivery.adapters.asgi import lifespan
from delivery.adapters.page_tokens import (
    NO_STORE,
    PATH,
    PageTokens,
    Secret,
    is_signed_in,
    user_id_of,
)
from delivery.client.remote import Remote, RemoteEmitter
from delivery.errors import ConfigError, InvalidContext, needs_extra
from delivery.tokens import DEFAULT_TTL

try:
    from fastapi import APIRouter, Depends, HTTPException, Response
    from fastapi.requests import HTTPConnection
except ImportError as missing:
    raise needs_extra("delivery.adapters.fastapi needs FastAPI", "fastapi") from missing

__all__ = ["Connection", "connection", "emitter_of", "lifespan", "token_router"]


async def connection(request: HTTPConnection) -> Remote:
    """Dependency: the application's connection, which ``lifespan`` opened. For sockets too.

    Raises:
        ConfigError: the application has no ``lifespan`` of this module.
    """
    found = getattr(request.app.state, "delivery", None)
    if not isinstance(found, Remote):
        raise ConfigError(
            "the application has no connection: FastAPI(lifespan=lifespan(url, token)) of "
            "delivery.adapters.fastapi"
        )
    return found


Connection = Annotated[Remote, Depends(connection)]
"""``d: Connection`` in a route's arguments."""


def emitter_of(
    current_user: Callable[..., Any], *, run_id: str = "run_id", thread_id: str = "thread_id"
) -> Callable[..., Coroutine[Any, Any, RemoteEmitter]]:
    """Make a dependency: an emitter of the signed-in user, for the run that the request names.

    Args:
        current_user: a dependency that gives this user's id.
        run_id: the parameter of path or query that names the run.
        thread_id: the one that names the thread; it may be missing.

    Returns:
        The dependency. It answers 401 without a user, 422 for an id that is missing or malformed.
    """

    async def emitter(
        request: HTTPConnection,
        remote: Annotated[Remote, Depends(connection)],
        user: Annotated[Any, Depends(current_user)],
    ) -> RemoteEmitter:
        named = {**request.query_params, **request.path_params}
        user_id = _signed_in(user)
        try:
            return remote.emitter(user_id, str(named.get(run_id, "")), named.get(thread_id))
        except InvalidContext as error:
            raise HTTPException(422, str(error)) from error

    return emitter


def token_router(
    current_user: Callable[..., Any],
    secret: Secret,
    *,
    path: str = PATH,
    ttl: float = DEFAULT_TTL,
    audience: str | None = None,
    issuer: str | None = None,
) -> APIRouter:
    """Make the route that gives the signed-in user's page its token: ``{"token": …}``.

    Args:
        current_user: a dependency that gives the id of the user who is signed in.
        secret: ``DELIVERY_JWT_SECRET`` of the service, or a function that reads it.
        ttl: seconds for which a token is valid.
        audience: ``DELIVERY_JWT_AUDIENCE`` of the service, where it is set; ``issuer`` likewise.

    Raises:
        ConfigError: the secret is too short.
    """
    tokens = PageTokens(secret, ttl, audience, issuer)
    router = APIRouter(tags=["delivery"])

    @router.get(path)
    def delivery_token(
        user: Annotated[Any, Depends(current_user)], response: Response
    ) -> dict[str, str]:
        response.headers.update(NO_STORE)
        return tokens.answer(_signed_in(user))

    return router


def _signed_in(user: object) -> str:
    if not is_signed_in(user):
        raise HTTPException(401, "sign in first", headers=dict(NO_STORE))
    return user_id_of(user)
