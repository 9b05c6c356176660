"""Names of log events: every line of ours has one, the same for as long as the table says so."""

from __future__ import annotations

import io
import json
import logging
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from delivery.telemetry import setup_logging
from delivery.telemetry.log_events import TABLE, name_of, names

ROOT = Path(__file__).resolve().parents[3]
MEND = "run: python docs/log_events.py (a text that you changed: give it its old name there first)"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """``docs/log_events.py``."""
    spec = spec_from_file_location("docs_log_events", ROOT / "docs" / "log_events.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_each_call_that_logs_has_a_name_and_the_page_shows_it(script: ModuleType) -> None:
    assert script.written(script.table()) == TABLE.read_text(), MEND
    page = (ROOT / "docs" / "logs.md").read_text()
    assert script.drawn(page) == page, MEND
    own = {name for _, _, name in script.calls() if name is not None}
    assert {
        name for name in own | set(names().values()) if not re.fullmatch("[a-z0-9_]+", name)
    } == (set())


def test_a_json_line_names_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    out = io.StringIO()
    setup_logging("json", "info", stream=out)
    log = logging.getLogger("delivery.anywhere")
    log.warning("the ledger is back: drained %d events from the spool", 3)
    log.warning("a text that has no name: %s", "yet")
    log.warning("%s", "of many kinds", extra={"event": "one_kind"})
    log.warning("%s")
    logging.getLogger("celery.worker").warning("whatever")
    logging.captureWarnings(False)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "ledger_back",
        "a_text_that_has_no_name",
        "one_kind",
        "delivery",
        "celery",
    ]
    assert list(lines[0]) == ["at", "level", "logger", "event", "message"]


def test_foreign_text_names_no_event_of_any_length() -> None:
    assert len(name_of("delivery.x", "x" * 10_000)) <= 200
    assert name_of("delivery.x", "\x00é{}") == "delivery"
