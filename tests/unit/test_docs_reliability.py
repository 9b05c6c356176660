"""docs/reliability.md draws the states as the code has them, and names tests that exist."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from delivery.bench.faults.scenarios import SCENARIOS
from delivery.domain.lifecycle import TRANSITIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = r"`(?:tests/[\w/]+\.py::)?(test_\w+)`"


@pytest.fixture(scope="module")
def state_diagram() -> ModuleType:
    spec = spec_from_file_location("state_diagram", ROOT / "docs" / "state_diagram.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagram_is_the_table_of_transitions(state_diagram: ModuleType) -> None:
    assert state_diagram.drawn(PAGE) == PAGE, "run: python docs/state_diagram.py"
    edges = re.findall(r"^    (\w+) --> (\w+): ([\w ]+)$", PAGE, re.MULTILINE)
    assert {(a, cause.replace(" ", "_"), b) for a, b, cause in edges} == {
        (state.value, cause.value, target.value) for (state, cause), target in TRANSITIONS.items()
    }


def test_every_test_that_is_named_exists() -> None:
    """On every page, and under the name that it has today."""
    assert len(re.findall(NAMED, PAGE)) > 40
    written: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        written |= {path.stem, *re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))}
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for name in re.findall(NAMED, path.read_text(encoding="utf-8"))
        if path.name != "CHANGELOG.md" and name not in written  # which says how things were called
    }
    assert missing == set()


def test_every_scenario_is_in_the_table() -> None:
    assert {one.name for one in SCENARIOS} <= set(re.findall(r"`([a-z-]+)`", PAGE))
