"""The addresses a gateway listens on: IPv6 alone, and all of both kinds."""

from __future__ import annotations

import aiohttp
import pytest

from tests.fast_path import Node, serve


@pytest.mark.parametrize(
    ("host", "served"),
    [("::", ("127.0.0.1", "[::1]")), ("::1", ("[::1]",)), ("0.0.0.0", ("127.0.0.1",))],
)
async def test_a_gateway_listens_on_the_addresses_it_was_told(
    host: str, served: tuple[str, ...]
) -> None:
    async with serve(Node(), host) as node, aiohttp.ClientSession() as session:
        for address in served:
            async with session.get(f"http://{address}:{node.port}/v1/stream") as answer:
                assert answer.status == 401, "it is the gateway that answers"
