"""Server-sent events out of bytes."""

import pytest

from delivery.client.sse import SseParser
from delivery.errors import InvalidFrame

STREAM = (
    b"retry: 80\r\nevent: connected\r\ndata: {}\r\n\r\n"
    b": 1\n\n"
    b'id: 7\nevent: event\ndata: {"text":\ndata: "gr\xc3\xbcn"}\n\n'
    b"data:bare\n\n"
    b"event: nothing\n\n"
    b"data: not finished\n"
)
MESSAGES = [
    ("connected", b"{}"),
    ("event", b'{"text":\n"gr\xc3\xbcn"}'),
    ("message", b"bare"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_messages_do_not_depend_on_how_the_network_cut_them(size):
    parser = SseParser()
    found = []
    for start in range(0, len(STREAM), size):
        found += parser.feed(STREAM[start : start + size])
    assert found == MESSAGES


@pytest.mark.parametrize("piece", [b"data: 123456789\n", b"123456789", b": 12345678\n"])
def test_a_message_without_an_end_is_refused(piece):
    parser = SseParser(limit=30)
    with pytest.raises(InvalidFrame):
        [found for _ in range(10) for found in parser.feed(piece)]


def test_the_limit_is_for_one_message_and_not_for_the_stream():
    parser = SseParser(limit=30)
    assert len([found for _ in range(100) for found in parser.feed(b"data: 12345\n\n")]) == 100
