"""Server-sent events out of bytes."""

import pytest

from delivery.client.stream import SseParser
from delivery.errors import InvalidFrame

STREAM = (
    b"\xef\xbb\xbfretry: 80\nevent: connected\ndata: {}\n\n"
    b": 1\n\n"
    b'id: 7\nevent: event\ndata: {"text":\ndata: "gr\xc3\xbcn"}\n\n'
    b"data:bare\n\n"
    b"data:  two spaces\ndata\n\n"
    b"event: nothing\n\n"
    b"event:\ndata: the default name\n\n"
    b"datum: unknown\nid\n:data: a comment\ndata: a:b\n\n"
    b"data:\n\n"
    b"data: not finished\n"
)
MESSAGES = [
    ("connected", "{}"),
    ("event", '{"text":\n"grün"}'),
    ("message", "bare"),
    ("message", " two spaces\n"),
    ("message", "the default name"),
    ("message", "a:b"),
    ("message", ""),
]
LINE_ENDS = {
    "LF": STREAM,
    "CRLF": STREAM.replace(b"\n", b"\r\n"),
    "CR": STREAM.replace(b"\n", b"\r"),
    "LF and CR": STREAM.replace(b"\n\n", b"\n\r"),
    "CRLF and LF": STREAM.replace(b"\n\n", b"\r\n\n"),
    "CR and CRLF": STREAM.replace(b"\n\n", b"\r\r\n"),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize("stream", LINE_ENDS.values(), ids=LINE_ENDS)
def test_messages_depend_neither_on_line_ends_nor_on_how_the_network_cut_them(stream, size):
    parser = SseParser()
    found = []
    for start in range(0, len(stream), size):
        found += parser.feed(stream[start : start + size])
    assert found == MESSAGES


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_a_message_is_there_with_its_last_byte(end):
    parser = SseParser()
    assert list(parser.feed(b"data: 1" + end)) == [("message", "1")]
    assert list(parser.feed(b"data: 2" + end)) == [("message", "2")]


def test_nothing_between_a_cr_and_its_lf_is_no_line():
    parser = SseParser()
    assert list(parser.feed(b"data: 1\r")) == []
    assert list(parser.feed(b"")) == []
    assert list(parser.feed(b"\n")) == []
    assert list(parser.feed(b"\r\n")) == [("message", "1")]


def test_bytes_that_are_no_text_become_replacement_characters():
    assert list(SseParser().feed(b"data: a\xffb\n\n")) == [("message", "a\ufffdb")]


@pytest.mark.parametrize("piece", [b"data: 123456789\n", b"123456789", b": 12345678\r"])
def test_a_message_without_an_end_is_refused(piece):
    parser = SseParser(limit=30)
    with pytest.raises(InvalidFrame):
        [found for _ in range(10) for found in parser.feed(piece)]


def test_the_limit_is_for_one_message_and_not_for_the_stream():
    parser = SseParser(limit=30)
    assert len([found for _ in range(100) for found in parser.feed(b"data: 12345\n\n")]) == 100
