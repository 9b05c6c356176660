"""docker-compose.yml: valid, complete, hardened, and about commands and settings that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from delivery.cli import main
from delivery.config.needs import duties, needs
from delivery.config.settings import Settings
from delivery.config.sources import names_of, secrets_of
from delivery.domain.policy import CHANNELS
from delivery.protocol import Limits
from tests.deployment.compose import (
    ROOT,
    SECRETS,
    bind_mounts,
    document,
    granted_secrets,
    own_services,
    services,
)

ALL = sorted(services())
OWN = sorted(own_services())


def test_the_file_is_valid_by_the_compose_specification() -> None:
    # The specification's own schema, as the package check-jsonschema carries it.
    folder = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    jsonschema.validate(document(), schema, cls=jsonschema.Draft202012Validator)
    broken: dict[str, Any] = {**document(), "services": {"x": {"comand": []}}}
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(broken, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", OWN)
def test_our_commands_and_options_exist(name: str) -> None:
    answer = CliRunner().invoke(main, [*services()[name]["command"], "--help"])
    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize("name", OWN)
def test_every_setting_exists_and_every_file_of_one_is_granted(name: str) -> None:
    service = own_services()[name]
    known = {f"DELIVERY_{key.upper()}" for key in names_of(Settings)}
    secret = {f"DELIVERY_{key.upper()}_FILE" for key in secrets_of(Settings)}
    environment = service["environment"]
    assert set(environment) <= known | secret
    for variable, value in environment.items():
        if variable in secret:
            assert value.removeprefix(SECRETS) in granted_secrets(service), variable
    given = {key.removesuffix("_FILE").removeprefix("DELIVERY_").lower() for key in environment}
    defaults = {key: value for key, value in environment.items() if key not in secret}
    plain = {key.removeprefix("DELIVERY_").lower(): value for key, value in defaults.items()}
    Settings(**plain)
    assert ("broker_url" in given) == (name != "migrate")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the script makes."""
    folder = tmp_path_factory.mktemp("secrets")
    script = str(ROOT / "config/make_secrets.py")
    subprocess.run([sys.executable, script, str(folder)], check=True, timeout=30)
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


@pytest.mark.parametrize("name", OWN)
def test_each_container_has_the_secrets_that_it_uses_and_no_others(
    name: str, made: dict[str, str]
) -> None:
    service = own_services()[name]
    named = {
        value.removeprefix(SECRETS)
        for variable, value in service["environment"].items()
        if variable.endswith("_FILE")
    }
    assert set(granted_secrets(service)) == named
    settings = Settings(**_settings(service, made))
    kind, *options = service["command"]
    queues = options[options.index("--queues") + 1].split(",") if "--queues" in options else []
    assert list(needs(settings, duties(kind, queues))) == []


def _settings(service: dict[str, Any], made: dict[str, str]) -> dict[str, Any]:
    return {
        variable.removeprefix("DELIVERY_").removesuffix("_FILE").lower(): (
            made[granted_secrets(service)[value.removeprefix(SECRETS)]]
            if variable.endswith("_FILE")
            else value
        )
        for variable, value in service["environment"].items()
    }


def test_secrets_that_sign_differ(made: dict[str, str]) -> None:
    signing = [made[name] for name in made if name.endswith("_secret")]
    assert len(signing) == len(set(signing)) >= 2


KEEPERS = {
    "postgres": {"database_url", "migrate_database_url"},
    "redis-broker": {"broker_url"},
    "redis-queue": {"redis_url"},
}


@pytest.mark.parametrize("name", OWN)
def test_a_container_reaches_the_servers_whose_password_it_has_and_no_others(name: str) -> None:
    service = own_services()[name]
    for server, passwords in KEEPERS.items():
        shared = _networks(service) & _networks(services()[server])
        assert bool(shared) == bool(passwords & set(granted_secrets(service))), server
    for url, server in (("smtp_url", "mailpit"), ("alertmanager_url", "alertmanager")):
        if url in _settings(service, dict.fromkeys(document()["secrets"], "")):
            assert _networks(service) & _networks(services()[server]), server


def test_servers_that_keep_events_stand_in_internal_networks_of_their_own() -> None:
    for server in KEEPERS:
        (network,) = _networks(services()[server])
        assert document()["networks"][network] == {"internal": True}
        inside = {name for name, one in services().items() if network in _networks(one)}
        assert inside & set(KEEPERS) == {server}
        assert inside <= {server, *OWN}
        assert "ports" not in services()[server]


def test_only_workers_of_providers_and_gateways_have_a_way_out() -> None:
    internal = {name for name, one in document()["networks"].items() if one.get("internal")}
    out = {name for name, one in own_services().items() if _networks(one) - internal}
    assert out == {
        *("gateway-1", "gateway-2", "flower"),
        *("worker-push", "worker-email", "worker-sms", "worker-alert"),
    }
    for name in ("worker-push", "worker-email", "worker-sms", "worker-alert"):
        assert not _networks(services()[name]) & _networks(services()["redis-queue"]), name
    for name, service in services().items():
        assert "ports" not in service or _networks(service) - internal, name


def _networks(service: dict[str, Any]) -> set[str]:
    return set(service["networks"])


def test_each_queue_is_served_by_one_kind_of_worker() -> None:
    served = [
        queue
        for service in own_services().values()
        if service["command"][0] == "worker"
        for queue in service["command"][service["command"].index("--queues") + 1].split(",")
    ]
    assert sorted(served) == sorted([*CHANNELS, "maintenance"])


def test_there_are_two_gateways_one_beat_and_one_migration() -> None:
    commands = [service["command"][0] for service in own_services().values()]
    counted = {name: commands.count(name) for name in ("gateway", "beat", "migrate", "flower")}
    assert counted == {"gateway": 2, "beat": 1, "migrate": 1, "flower": 1}
    nodes = [one["environment"].get("DELIVERY_NODE") for one in own_services().values()]
    named = [node for node in nodes if node]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", ALL)
def test_every_path_exists(name: str) -> None:
    service = services()[name]
    for path in bind_mounts(service).values():
        assert path.exists(), path
    if "build" in service:
        assert (ROOT / service["build"] / "Dockerfile").is_file()
    named_volumes = {text.split(":")[0] for text in service.get("volumes", []) if text[0] != "."}
    assert named_volumes <= set(document()["volumes"])
    assert set(granted_secrets(service).values()) <= set(document()["secrets"])
    assert set(service.get("networks", {})) <= set(document()["networks"])


@pytest.mark.parametrize("name", ALL)
def test_images_are_pinned(name: str) -> None:
    image = services()[name]["image"]
    assert image == "delivery:local" or re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?", image)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_privileged_and_nothing_is_open_to_the_network(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    for forbidden in ("privileged", "cap_add", "devices", "network_mode", "pid", "ipc"):
        assert forbidden not in service
    assert "docker.sock" not in json.dumps(service)
    assert service.get("user") not in ("root", "0", "0:0")
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", ALL)
def test_no_secret_stands_in_the_environment_or_in_a_command(name: str) -> None:
    service = services()[name]
    for variable, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|TOKEN|AUTH|DATABASE_URL|REDIS_URL|BROKER_URL", variable):
            assert variable.endswith("_FILE"), variable
        assert not re.search(r"://[^/]*:[^/]*@", str(value)), variable
    assert "://" not in " ".join(service.get("command", []))


def test_who_waits_for_health_waits_for_a_service_that_tells_it() -> None:
    for name, service in services().items():
        for other, wait in service.get("depends_on", {}).items():
            needed = services()[other]
            if wait["condition"] == "service_healthy":
                tells = needed.get("healthcheck", {}).get("test")
                assert tells or needed["command"] == ["gateway"], name  # that one is the image's
            if wait["condition"] == "service_completed_successfully":
                assert needed["restart"] == "on-failure", name


def test_every_service_that_stays_has_a_health_check() -> None:
    silent = {name for name, one in services().items() if one.get("healthcheck", {}).get("disable")}
    assert silent == {"migrate"}, "it ends, and who needs it waits for that"
    for name, service in services().items():
        is_gateway = service.get("command") == ["gateway"]  # whose check is the image's
        assert is_gateway or name in silent or service["healthcheck"]["test"], name


def test_postgres_is_asked_by_tcp_as_its_clients_do() -> None:
    assert "--host=127.0.0.1" in services()["postgres"]["healthcheck"]["test"][1]


def test_workers_can_be_scaled() -> None:
    workers = {n: one for n, one in services().items() if n.startswith("worker-")}
    assert len(workers) == 6
    for name, worker in workers.items():
        assert "DELIVERY_NODE" not in worker["environment"], name
        assert not {"hostname", "container_name", "ports"} & set(worker), name


@pytest.mark.parametrize("name", ALL)
def test_nothing_asks_for_more_than_an_engine_without_root_may_give(name: str) -> None:
    assert not {"ulimits", "sysctls", "cgroup_parent", "oom_score_adj"} & set(services()[name])


def test_nginx_knows_gateways_by_addresses_and_waits_for_none() -> None:
    text = (ROOT / "config/nginx.conf").read_text()
    named = set(re.findall(r"^ +server ([\d.]+):8080", text, re.MULTILINE))
    fixed = {
        one["networks"]["front"]["ipv4_address"]
        for one in services().values()
        if one.get("command") == ["gateway"]
    }
    assert named == fixed
    assert "gateway-1:" not in text
    assert "depends_on" not in services()["nginx"]


def test_the_two_redis_share_nothing_and_never_drop_a_message() -> None:
    broker, queue = services()["redis-broker"], services()["redis-queue"]
    assert not set(granted_secrets(broker).values()) & set(granted_secrets(queue).values())
    data = [
        next(v for v in one["volumes"] if v.endswith(":/data")).split(":")[0]
        for one in (broker, queue)
    ]
    assert len(set(data)) == 2
    config = (ROOT / "config/redis.conf").read_text().splitlines()
    assert {"maxmemory-policy noeviction", "appendonly yes"} <= set(config)


def test_gateways_trust_the_address_of_nginx_alone() -> None:
    nginx = services()["nginx"]["networks"]["front"]["ipv4_address"]
    gateways = [one for one in own_services().values() if one["command"] == ["gateway"]]
    addresses = {one["networks"]["front"]["ipv4_address"] for one in gateways}
    assert len(addresses | {nginx}) == 3
    for gateway in gateways:
        assert gateway["environment"]["DELIVERY_TRUSTED_PROXIES"] == nginx
        assert "ports" not in gateway, "no request passes by nginx"


def test_nginx_waits_longer_than_two_heartbeats() -> None:
    text = (ROOT / "config/nginx.conf").read_text()
    for path in ("/v1/ws", "/v1/stream"):
        found = re.search(rf"location = {path} \{{(.*?)\}}", text, re.DOTALL)
        assert found is not None
        assert "proxy_buffering off;" in found[1]
        for direction in ("read", "send"):
            timeout = re.search(rf"proxy_{direction}_timeout (\d+)s;", found[1])
            assert timeout is not None
            assert float(timeout[1]) > 2 * Limits().heartbeat
