"""The small parts of the clients: URLs, backoff, problems."""

import pytest

import delivery
from delivery.client.backoff import FullJitter
from delivery.client.http import item_error, parse_url, seconds, to_error
from delivery.errors import (
    ConfigError,
    IdConflict,
    InvalidContext,
    InvalidEvent,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    Unauthenticated,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "http://h:1/",
        "http://h:1/v1",
        "http://h:1/v1/ws",
        "ws://h:1/v1/ws",
        "ws://h:1",
    ],
)
def test_every_spelling_means_the_same_service(url):
    endpoints = parse_url(url)
    assert endpoints.socket == "ws://h:1/v1/ws"
    assert endpoints.stream == "http://h:1/v1/stream"
    assert endpoints.acks == "http://h:1/v1/acks"
    assert endpoints.events == "http://h:1/v1/events"
    assert endpoints.event("a b") == "http://h:1/v1/events/a%20b"


def test_tls_and_a_prefix_are_kept():
    endpoints = parse_url("https://example.org/push/")
    assert endpoints.socket == "wss://example.org/push/v1/ws"


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "http://", "/v1", "http://u:secret@h"])
def test_what_is_no_service_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_full_jitter_spreads_over_the_whole_delay_and_has_a_ceiling():
    backoff = FullJitter(base=1.0, max=8.0)
    assert backoff.delay(1, 0.0) == 0.0
    assert [backoff.delay(n, 1.0) for n in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert backoff.delay(10_000, 0.5) == 4.0


def test_a_link_that_outlived_the_longest_wait_makes_up_for_earlier_failures():
    backoff = FullJitter(base=1.0, max=8.0)
    assert not backoff.forgives(0, lasted=0.5)
    assert backoff.forgives(1, lasted=2.1)
    assert not backoff.forgives(2, lasted=2.1)
    assert not backoff.forgives(100, lasted=8.0)
    assert backoff.forgives(100, lasted=8.1)


@pytest.mark.parametrize(
    ("status", "slug", "kind"),
    [
        (422, "invalid-event", InvalidEvent),
        (422, "invalid-context", InvalidContext),
        (413, "payload-too-large", PayloadTooLarge),
        (409, "id-conflict", IdConflict),
        (409, "something-new", IdConflict),
        (401, "token-expired", Unauthenticated),
        (403, "forbidden", RemoteError),
        (404, "not-found", RemoteError),
        (429, "overloaded", Overloaded),
        (503, "unavailable", Overloaded),
    ],
)
def test_a_problem_becomes_the_error_of_our_tree(status, slug, kind):
    error = to_error(status, {"type": f"/problems/{slug}", "detail": "why", "field": "type"})
    assert type(error) is kind
    assert str(error) == "why"
    if isinstance(error, InvalidEvent):
        assert error.field == "type"


def test_a_problem_of_another_kind_keeps_status_and_document():
    error = to_error(418, {"title": "teapot"})
    assert isinstance(error, RemoteError)
    assert (error.status, error.problem) == (418, {"title": "teapot"})


def test_a_rejected_item_without_a_document_is_invalid_anyway():
    status, error = item_error(None)
    assert status == 422
    assert isinstance(error, RemoteError)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (None, None),
        ("3", 3.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("\u00b2", None),  # a digit that is no decimal
        ("\u0663", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_in_seconds_is_read(header, value):
    assert seconds(header) == value


def test_arguments_of_0_1_0_still_work_and_say_their_new_names() -> None:
    with pytest.warns(DeprecationWarning, match="give_up_after"):
        client = delivery.Client("http://127.0.0.1:1", "t", patience=2.0)
    assert client._plan.give_up_after == 2.0
    with pytest.raises(TypeError, match="patients"):
        delivery.Client("http://127.0.0.1:1", "t", patients=2.0)
