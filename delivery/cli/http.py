"""HTTP requests of the commands to a running service.

Owns: its address and token, and the translation of failures into delivery's errors. Never does:
print.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from delivery.errors import ConfigError, RemoteError, Unreachable
from delivery.protocol import encode_json

TIMEOUT = 15.0
_JSON = {"Content-Type": "application/json"}


class Api:
    """Requests to ``/v1`` of one service."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"DELIVERY_URL must start with http:// or https://, not {url!r}")
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self._url + "/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            transport=transport,
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """A GET; parameters that are ``None`` are left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._request("GET", path, params=given)

    def post(self, path: str, body: Any) -> Any:
        """A POST of JSON."""
        return self._request("POST", path, content=encode_json(body), headers=_JSON)

    def put(self, path: str, body: Any) -> Any:
        """A PUT of JSON."""
        return self._request("PUT", path, content=encode_json(body), headers=_JSON)

    def delete(self, path: str) -> Any:
        """A DELETE."""
        return self._request("DELETE", path)

    def post_lines(self, path: str, lines: bytes) -> Any:
        """A POST of newline-delimited JSON."""
        return self._request(
            "POST", path, content=lines, headers={"Content-Type": "application/x-ndjson"}
        )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and parsed body of the answer, refusals included; ``path`` is from the root.

        Raises:
            Unreachable: no answer came.
        """
        more = {} if body is None else {"content": encode_json(body), "headers": _JSON}
        answer = self._send(method, self._url + path, **more)
        return answer.status_code, _parsed(answer)

    def _request(self, method: str, path: str, **more: Any) -> Any:
        """The parsed answer.

        Raises:
            Unreachable: no answer came, or not one of the service.
            RemoteError: the service refused.
        """
        answer = self._send(method, path, **more)
        body = _parsed(answer)
        if answer.is_success and (body is not None or answer.status_code == 204):
            return body
        problem = body if isinstance(body, dict) else {}
        if not problem and answer.status_code in (200, 502, 503, 504):
            raise Unreachable(f"{self._url} answered {answer.status_code}, but not as delivery")
        raise RemoteError(
            _explain(answer.status_code, problem), status=answer.status_code, problem=problem
        )

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **more)
        except httpx.InvalidURL as error:
            raise ConfigError(f"DELIVERY_URL is not a URL: {error}") from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{self._url} does not answer: {reason}") from error


def _parsed(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _explain(status: int, problem: dict[str, Any]) -> str:
    text = problem.get("detail") or problem.get("title") or "refused"
    lines = [f"{text} ({status})"]
    for item in problem.get("rejected", [])[:5]:
        inner = item.get("error", {})
        lines.append(f"  #{item.get('index')}: {inner.get('detail') or inner.get('title')}")
    return "\n".join(lines)
