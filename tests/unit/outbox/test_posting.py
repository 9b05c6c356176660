"""Which answers settle a row: only those of the service itself do."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from delivery.errors import ConfigError, Overloaded, Unreachable
from delivery.outbox.posting import Post, Verdict


class Service(http.server.ThreadingHTTPServer):
    """Answers as told, by the number of events in the request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.document, self.sizes = 200, "{}", []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        service = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        service.sizes.append(len(body["events"]))
        raw = service.document.encode()
        self.send_response(service.status)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    service = Service()
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield service
    service.shutdown()
    service.server_close()


@pytest.fixture
def post(server: Service) -> Iterator[Post]:
    server.sizes = []
    made = Post(f"http://127.0.0.1:{server.server_address[1]}/", lambda: "t")
    yield made
    made.close()


def problem(status: int, slug: str = "any") -> dict[str, object]:
    return {"type": f"/problems/{slug}", "status": status, "detail": "said so"}


def test_each_event_of_a_request_has_its_own_answer(server: Service, post: Post):
    server.status = 202
    server.document = json.dumps(
        {
            "accepted": [{"index": 0, "id": "i"}],
            "rejected": [
                {"index": 1, "error": problem(422)},
                {"index": 2, "error": problem(409)},
                {"index": 3, "error": problem(503)},
                {"index": 4, "error": problem(500)},
            ],
        }
    )
    answers = post.send([b"{}"] * 6)
    assert [answer.verdict for answer in answers] == [
        Verdict.ACCEPTED,
        Verdict.REFUSED,
        Verdict.REFUSED,
        Verdict.BUSY,
        Verdict.FAILED,
        Verdict.FAILED,
    ]
    assert answers[1].reason == "422: said so"


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 418, 200])
def test_an_answer_to_the_caller_costs_no_event(server: Service, post: Post, status: int):
    server.status, server.document = status, json.dumps(problem(status))
    with pytest.raises(Unreachable, match=str(status)):
        post.send([b"{}"])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_service_or_proxy_that_is_busy_is_asked_again(server: Service, post: Post, status: int):
    server.status, server.document = status, "<html>"
    with pytest.raises(Overloaded) as told:
        post.send([b"{}"])
    assert told.value.retry_after == 7


@pytest.mark.parametrize(
    ("status", "document", "verdict"),
    [
        (413, json.dumps(problem(413)), Verdict.REFUSED),
        (413, "<html>", Verdict.FAILED),
        (500, json.dumps(problem(500)), Verdict.FAILED),
    ],
)
def test_a_request_that_is_refused_as_a_whole_is_divided(
    server: Service, post: Post, status: int, document: str, verdict: Verdict
):
    server.status, server.document = status, document
    assert [answer.verdict for answer in post.send([b"{}"] * 5)] == [verdict]
    assert server.sizes == [5, 2, 1]


def test_a_request_stays_under_a_megabyte(server: Service, post: Post):
    server.status = 202
    server.document = json.dumps({"accepted": [{"index": n} for n in range(40)], "rejected": []})
    assert len(post.send([b'{"x":"%b"}' % (b"y" * 60_000)] * 40)) == 16


def test_an_address_that_is_none_is_a_configuration_error():
    with pytest.raises(ConfigError, match="DELIVERY_URL"):
        Post("ftp://here", lambda: "t")
