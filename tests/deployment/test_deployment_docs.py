"""docs/deployment.md and docs/upgrading.md speak of services, settings and files that exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from delivery.cli import main
from delivery.config.settings import Settings
from delivery.config.sources import names_of, secrets_of
from tests.deployment.compose import ROOT, own_services, services

PAGES = ("deployment.md", "kubernetes.md", "upgrading.md")
DOCS = {name: (ROOT / "docs" / name).read_text() for name in PAGES}
COMPOSE_ONLY = {"DELIVERY_PUBLISH"}


def test_the_override_for_sms_reaches_those_that_use_its_password() -> None:
    override = _override("worker-sms")
    using = {name for name, one in own_services().items() if one["command"][0] == "gateway"}
    assert set(override["services"]) == using | {"worker-sms"}
    for service in override["services"].values():
        assert set(service["secrets"]) == set(override["secrets"])
        for variable, value in service["environment"].items():
            name = variable.removeprefix("DELIVERY_").removesuffix("_FILE").lower()
            assert name in names_of(Settings)
            assert variable.endswith("_FILE") == value.startswith("/run/secrets/")
            assert (name in secrets_of(Settings)) == variable.endswith("_FILE")


def test_the_override_for_a_gateway_collides_with_no_other() -> None:
    (gateway,) = _override("gateway-3")["services"].values()
    assert gateway["extends"]["service"] in services()
    address = gateway["networks"]["front"]["ipv4_address"]
    assert address not in {
        one["networks"]["front"]["ipv4_address"]
        for one in services().values()
        if "front" in one.get("networks", {}) and isinstance(one["networks"], dict)
    }
    assert f"`server {address}:8080" in DOCS["deployment.md"]


def _override(service: str) -> dict[str, Any]:
    """The document's override file for a service."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS["deployment.md"], re.DOTALL)
    (found,) = [one for one in map(yaml.safe_load, blocks) if service in one["services"]]
    return dict(found)


@pytest.mark.parametrize("name", DOCS)
def test_settings_and_services_that_are_named_exist(name: str) -> None:
    known = {f"DELIVERY_{key.upper()}" for key in names_of(Settings)} | COMPOSE_ONLY
    known |= {f"DELIVERY_{key.upper()}_FILE" for key in secrets_of(Settings)}
    known |= {str(one.envvar) for command in main.commands.values() for one in command.params}
    assert set(re.findall(r"\bDELIVERY_[A-Z_]+[A-Z]", DOCS[name])) <= known
    lines = [line for line in DOCS[name].splitlines() if line.startswith("$ docker compose")]
    assert lines or name == "kubernetes.md"
    for line in lines:
        for word in re.findall(r"\b(?:gateway|worker|redis)-[a-z0-9]+\b", line):
            assert word in services() or word == "gateway-3", line


@pytest.mark.parametrize("name", DOCS)
def test_files_and_commands_that_are_named_exist(name: str) -> None:
    named = re.findall(r"`((?:config|tests|docs)/[\w./-]+)`", DOCS[name])
    for path in named + [f"docs/{link}" for link in re.findall(r"\]\((\w+\.md)\)", DOCS[name])]:
        assert (ROOT / path).exists(), path
    commands = set(re.findall(r"`delivery ([a-z]+)", DOCS[name]))
    assert commands
    for command in commands:
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0, command
