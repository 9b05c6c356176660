"""FastAPI, Starlette and other ASGI applications that emit to a service elsewhere.

::

    app = FastAPI(lifespan=asgi.lifespan("http://127.0.0.1:8080", token))

    @app.post("/run")
    async def run(request: Request) -> None:
        emitter = request.app.state.delivery.emitter(user_id, run_id)
        await emitter.emit_agent_started("researcher")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from delivery.client.remote import connect
from delivery.client.tokens import Token


def lifespan(
    url: str, token: Token, **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan that connects before the first request and sends what waits after the last.

    Args:
        url: the service; ``token`` and ``options`` as of ``delivery.connect``.

    Returns:
        What the application takes as ``lifespan``; the connection is ``app.state.delivery``.

    Raises:
        ConfigError: the URL is none.
    """
    connection = connect(url, token, **options)

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[None]:
        async with connection:
            app.state.delivery = connection
            yield

    return run
