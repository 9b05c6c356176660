"""The log: both formats, and no secret in either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from delivery.telemetry import Redactor, setup_logging

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The root logger as pytest set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach postgresql+psycopg://user:hunter22@db/x",
        f"Authorization: Bearer {'hunter22' * 3}",
        "DELIVERY_SMS_TOKEN=hunter22",
        '{"password": "hunter22"}',
        "GET /confirm/hunter22hunter22 404",
        "the known one: hunter22",
    ],
)
def test_a_secret_is_taken_out_whatever_carries_it(text: str) -> None:
    assert "hunter22" not in Redactor(["hunter22"])(text)


def test_what_looks_like_a_secret_is_taken_out_without_knowing_it() -> None:
    redact = Redactor()
    assert JWT not in redact(f"token {JWT} refused")
    assert redact("smtp://u:hunter22@h:25") == "smtp://u:***@h:25"


def test_ordinary_text_stays_as_it_is() -> None:
    text = "event 0198c2b4 of user u-1: the token expired; retry in 5 s (http://127.0.0.1:8080/v1)"
    assert Redactor(["a", ""])(text) == text


def test_json_lines_carry_level_logger_extras_and_a_redacted_traceback() -> None:
    out = io.StringIO()
    setup_logging("json", "info", secrets=["hunter22"], stream=out)
    log = logging.getLogger("delivery.x")
    try:
        raise RuntimeError("with hunter22")
    except RuntimeError:
        log.exception("failed %s", "hunter22", extra={"event_id": "e", "url": "a:hunter22"})
    line = json.loads(out.getvalue())
    assert (line["level"], line["logger"], line["event_id"]) == ("error", "delivery.x", "e")
    assert line["message"] == "failed ***"
    assert "RuntimeError: with ***" in line["error"]
    assert "hunter22" not in out.getvalue()


def test_text_lines_respect_the_level() -> None:
    out = io.StringIO()
    setup_logging("text", "WARNING", stream=out)
    logging.getLogger("delivery.x").info("quiet")
    logging.getLogger("delivery.x").warning("loud")
    assert "quiet" not in out.getvalue()
    assert "WARNING delivery.x: loud" in out.getvalue()
