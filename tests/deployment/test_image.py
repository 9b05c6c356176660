"""Dockerfile and .dockerignore, as far as they can be held without a Docker engine."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest

from delivery.config.settings import Settings
from delivery.config.sources import names_of
from tests.deployment.compose import ROOT

TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
STEPS = [line.split(None, 1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def arguments(instruction: str) -> list[str]:
    return [rest.strip() for name, rest in (s for s in STEPS if len(s) == 2) if name == instruction]


def test_it_has_two_stages_on_one_pinned_base() -> None:
    bases = [text.split()[0] for text in arguments("FROM")]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim", bases[0])


def test_it_runs_as_a_numbered_user_without_rights() -> None:
    last = TEXT.rindex("FROM ")
    (user,) = arguments("USER")
    assert TEXT.index("USER ") > last
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)


def test_it_has_a_health_check_and_runs_the_command() -> None:
    (check,) = arguments("HEALTHCHECK")
    assert "/healthz" in check
    assert arguments("ENTRYPOINT") == ['["delivery"]']


def test_its_settings_exist() -> None:
    known = {f"DELIVERY_{name.upper()}" for name in names_of(Settings)}
    named = set(re.findall(r"\bDELIVERY_[A-Z_]+(?==)", TEXT))
    assert named
    assert named <= known


def test_it_installs_the_locked_versions_with_what_the_compose_file_uses() -> None:
    (install,) = [text for text in arguments("RUN") if "pip install" in text]
    assert "--constraint requirements.lock" in install
    assert '".[flower,postgres,push]"' in install


def test_what_it_copies_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    sources = {
        source.removeprefix("./")
        for text in arguments("COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert sources == kept
    for source in sources:
        assert (ROOT / source).exists(), source


@pytest.mark.parametrize("path", ["secrets", ".git", ".venv", ".delivery", "tests", ".env"])
def test_nothing_private_gets_into_the_image(path: str) -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    patterns = [line for line in lines if not line.startswith("#")]
    assert patterns[0] == "*"
    assert not any(fnmatch(path, line[1:]) for line in patterns if line.startswith("!"))
