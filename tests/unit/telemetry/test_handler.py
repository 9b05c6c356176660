"""The log's handler: bounds, rate, and the queue before its writer."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import process_time

import pytest

from delivery.telemetry import records_lost, setup_logging
from delivery.telemetry.handler import BURST, MAX_CHARACTERS, MAX_RECORDS, Pace

LOG = logging.getLogger("delivery.x")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The root logger as pytest set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for ours in root.handlers:
        if ours not in handlers:
            ours.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


class Stuck(io.StringIO):
    """A stream that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.reached = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.released.wait(20)
        return super().write(text)


class Hostile:
    """An argument whose texts are far too long."""

    def __str__(self) -> str:
        return "s" * 1_000_000

    def __repr__(self) -> str:
        return "r" * 1_000_000


def close() -> None:
    for handler in logging.getLogger().handlers:
        handler.close()


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "value",
    [
        "a" * 1_000_000,
        b"\x01" * 1_000_000,
        ["x" * 1_000] * 2_000,
        {"k" * 9_000: "v" * 900_000},
        Hostile(),
        ValueError("e" * 1_000_000),
        1 << 9_000,
    ],
    ids=["text", "bytes", "list", "dict", "object", "exception", "number"],
)
def test_a_record_is_bounded_in_every_part(log_format: str, value: object) -> None:
    out = io.StringIO()
    setup_logging(log_format, stream=out)
    LOG.warning("took %s and %r", value, value, extra={"value": value})
    LOG.warning(value)
    LOG.warning("%(a)s", {"a": value})
    try:
        raise RuntimeError(str(value)) from OSError(repr(value))
    except RuntimeError:
        LOG.exception("failed", stack_info=True)
    assert len(out.getvalue()) < 60_000
    assert out.getvalue().count("delivery.x") >= 4


def test_a_long_chain_of_exceptions_is_bounded() -> None:
    out = io.StringIO()
    setup_logging("json", stream=out)
    error = ValueError("first")
    for number in range(2_000):
        error, error.__cause__ = ValueError(f"cause {number}"), error
    LOG.error("failed", exc_info=error)
    told = json.loads(out.getvalue())["error"]
    assert len(told) < 70_000
    assert told.endswith("ValueError: cause 1999")


def test_arguments_that_do_not_fit_the_message_are_still_shown() -> None:
    out = io.StringIO()
    setup_logging(stream=out)
    LOG.warning("two: %s %s", "one")
    LOG.warning("number: %d", "none")
    assert "two: %s %s ('one',)" in out.getvalue()
    assert "number: %d" in out.getvalue()


def test_an_argument_that_cannot_be_shown_costs_its_line_only() -> None:
    class Broken:
        def __str__(self) -> str:
            raise LookupError("broken")

    out = io.StringIO()
    setup_logging(stream=out)
    LOG.warning("%s", Broken())
    LOG.warning("next")
    assert "cannot be shown" in out.getvalue()
    assert out.getvalue().endswith(": next\n")


def test_a_stranger_begins_no_line_and_moves_no_cursor() -> None:
    out = io.StringIO()
    setup_logging(stream=out)
    bad = "x\n2026-11-30 00:00:00,000 INFO    root: forged \x1b[2J\x9b\r\u202e"
    LOG.warning("said %s", bad)
    try:
        raise ValueError(bad)
    except ValueError:
        LOG.exception("failed")
    lines = out.getvalue().split("\n")
    assert [line for line in lines if line and not line.startswith(" ")] == [lines[0], lines[1]]
    assert r"said x\n2026" in lines[0]
    assert not {"\x1b", "\x9b", "\r", "\u202e"} & set(out.getvalue())


def test_json_lines_stay_json_whatever_they_carry() -> None:
    out = io.StringIO()
    setup_logging("json", stream=out)
    extra = {"nan": float("nan"), "big": 10**30, "at": "forged", "bad": "\ud800\x9b"}
    LOG.warning("said \ud800\x9b\n", extra=extra)
    line = json.loads(out.getvalue(), parse_constant=lambda name: pytest.fail(name))
    assert line["message"] == "said \ud800\x9b\n"
    assert line["at"] != "forged"
    assert out.getvalue().isascii()


def test_one_place_logs_at_a_bounded_rate_and_says_what_it_left_out() -> None:
    now = [0.0]
    pace = Pace(burst=3, rate=1.0, clock=lambda: now[0])
    assert [pace.admit("a.py", 1) for _ in range(5)] == [0, 0, 0, None, None]
    assert pace.admit("a.py", 2) == 0
    now[0] = 1.0
    assert pace.admit("a.py", 1) == 2
    assert pace.admit("a.py", 1) is None
    assert pace.unreported() == 1


def test_a_flood_from_one_place_is_told_at_the_end() -> None:
    out = io.StringIO()
    setup_logging(stream=out)
    for number in range(BURST * 3):
        LOG.warning("refused %d", number)
    LOG.warning("another place")
    close()
    assert out.getvalue().count("refused") < BURST * 2
    assert "another place" in out.getvalue()
    assert "log records left out" in out.getvalue()


def test_a_full_queue_drops_counts_and_tells() -> None:
    out = Stuck()
    setup_logging(stream=out, level="DEBUG", queued=True)
    LOG.debug("first")
    assert out.reached.wait(10)
    for _ in range(MAX_RECORDS + 7):
        LOG.debug("more")
    assert records_lost() == 7
    out.released.set()
    logging.getLogger().handlers[0].flush()
    assert "7 log records lost" in out.getvalue()
    assert out.getvalue().count(": more") == MAX_RECORDS


def test_the_queue_is_bounded_in_characters() -> None:
    out = Stuck()
    setup_logging(stream=out, level="DEBUG", queued=True)
    for _ in range(MAX_RECORDS):
        LOG.debug("x" * 10_000)
    assert records_lost() > MAX_RECORDS - MAX_CHARACTERS // 4_096 - 2
    out.released.set()


def test_logging_does_not_wait_for_the_reader_of_the_log() -> None:
    out = Stuck()
    setup_logging(stream=out, queued=True)
    began = process_time()
    for _ in range(100):
        LOG.warning("a" * 1_000_000)
    assert process_time() - began < 1.0
    assert out.getvalue() == ""
    out.released.set()


def test_a_stream_that_is_gone_is_counted() -> None:
    out = io.StringIO()
    setup_logging(stream=out)
    out.close()
    LOG.warning("to nowhere")
    assert records_lost() == 1


def run(tmp_path: Path, script: str) -> str:
    """What a process that ends after this script wrote to its log."""
    file = tmp_path / "script.py"
    head = "import logging, os, sys\nfrom delivery.telemetry import setup_logging\n"
    file.write_text(head + "setup_logging(queued=True)\nlog = logging.getLogger('x')\n" + script)
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=50, check=False
    )
    return done.stderr


def test_what_was_logged_is_written_before_the_process_ends(tmp_path: Path) -> None:
    said = run(tmp_path, "for n in range(40): log.warning('line %d', n)\nsys.exit(3)\n")
    assert [line.split(": ")[1] for line in said.splitlines()] == [f"line {n}" for n in range(40)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_logs_its_own_lines_once(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        "for n in range(40): log.warning('parent %d', n)\n"
        "for child in range(5):\n"
        "    if os.fork() == 0:\n"
        "        for n in range(40): log.warning('child %d %d', child, n)\n"
        "        sys.exit()\n"
        "    os.wait()\n"
        "log.warning('parent ends')\n",
    )
    lines = [line.split(": ")[1] for line in said.splitlines()]
    own = [f"parent {n}" for n in range(40)] + ["parent ends"]
    children = [f"child {child} {n}" for child in range(5) for n in range(40)]
    assert sorted(lines) == sorted(own + children)
