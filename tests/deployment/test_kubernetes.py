"""config/kubernetes: valid, complete, hardened, and about commands and settings that exist."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from delivery.cli import main
from delivery.config.needs import duties, needs
from delivery.config.settings import Settings
from tests.deployment.compose import ROOT, SECRETS, own_services
from tests.deployment.compose import granted_secrets as granted_by_compose
from tests.docs_blocks import blocks

FOLDER = ROOT / "config/kubernetes"
VERSIONS = ("1.33.0", "1.37.0")
Manifest = dict[str, Any]


@cache
def manifests() -> tuple[Manifest, ...]:
    """Every object of the base, as the kustomization lists the files."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return tuple(one for name in listed for one in yaml.safe_load_all((FOLDER / name).read_text()))


def of_kind(kind: str) -> list[Manifest]:
    return [one for one in manifests() if one["kind"] == kind]


def pods() -> dict[str, Manifest]:
    """Templates of pods by the name of what makes them."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in manifests()
        if one["kind"] in ("Deployment", "StatefulSet", "Job")
    }


def container(name: str) -> Manifest:
    [found] = pods()[name]["spec"]["containers"]
    return dict(found)


def environment(name: str) -> dict[str, str]:
    """Variables of a pod's container, those of its ConfigMaps too."""
    maps = {
        one["metadata"]["name"]: one["data"] for one in manifests() if one["kind"] == "ConfigMap"
    }
    found: dict[str, str] = {}
    for source in container(name).get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    for variable in container(name).get("env", ()):
        origin = variable.get("valueFrom", {})
        if "configMapKeyRef" in origin:
            reference = origin["configMapKeyRef"]
            found[variable["name"]] = maps[reference["name"]][reference["key"]]
        else:
            found[variable["name"]] = variable.get("value", "a-field-of-the-pod")
    return found


def granted(name: str) -> set[str]:
    """What a pod finds under /run/secrets."""
    [volume] = [v for v in pods()[name]["spec"]["volumes"] if v["name"] == "secrets"]
    return {item["path"] for item in volume["secret"]["items"]}


ALL = sorted(pods())


def test_every_file_is_listed_and_every_name_stands_once() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_by_the_schemas_of_kubernetes(version: str) -> None:
    for one in manifests():
        kubernetes_validate.validate(one, version, strict=True)
    broken = {**manifests()[-1], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_what_compose_runs_runs_here_with_the_same_arguments() -> None:
    composed = {
        "gateway" if name.startswith("gateway-") else name: service["command"]
        for name, service in own_services().items()
    }
    assert {name: container(name)["args"] for name in pods()} == composed


@pytest.mark.parametrize("name", ALL)
def test_each_pod_has_the_secrets_of_its_service_in_compose(name: str) -> None:
    services = own_services()
    service = services["gateway-1" if name == "gateway" else name]
    assert granted(name) == set(granted_by_compose(service))
    files = {v for k, v in environment(name).items() if k.endswith("_FILE")}
    assert {value.removeprefix(SECRETS) for value in files} == granted(name)


@pytest.mark.parametrize("name", ALL)
def test_commands_and_settings_exist_and_nothing_that_is_needed_is_missing(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    args = container(name)["args"]
    answer = CliRunner().invoke(main, [*args, "--help"])
    assert answer.exit_code == 0, answer.output
    made = _made(str(tmp_path_factory.getbasetemp() / "kubernetes-secrets"))
    values = {
        key.removeprefix("DELIVERY_").removesuffix("_FILE").lower(): (
            made[value.removeprefix(SECRETS)] if key.endswith("_FILE") else value
        )
        for key, value in environment(name).items()
    }
    settings = Settings(**values)  # an unknown name is refused
    queues = args[args.index("--queues") + 1].split(",") if "--queues" in args else []
    assert list(needs(settings, duties(args[0], queues))) == []


@cache
def _made(folder: str) -> dict[str, str]:
    script = str(ROOT / "config/make_secrets.py")
    subprocess.run([sys.executable, script, folder], check=True, timeout=60)
    return {path.name: path.read_text().strip() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("name", ALL)
def test_pods_are_hardened(name: str) -> None:
    pod, one = pods()[name]["spec"], container(name)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in one["resources"]["limits"]
    # Service links would put DELIVERY_… and GATEWAY_… variables beside the settings.
    assert pod["enableServiceLinks"] is False
    writable = {mount["mountPath"] for mount in one["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/var/lib/delivery"}


@pytest.mark.parametrize("name", [name for name in ALL if name != "migrate"])
def test_what_stays_is_probed_and_has_longer_than_a_task_to_end(name: str) -> None:
    one = container(name)
    assert {"startupProbe", "livenessProbe"} <= set(one)
    assert pods()[name]["spec"]["terminationGracePeriodSeconds"] >= 40
    assert ("readinessProbe" in one) == (name != "beat")


def test_a_gateway_is_restarted_for_its_loop_alone_and_routed_to_while_it_accepts() -> None:
    gateway = container("gateway")
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert gateway["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_selectors_find_the_pods_that_are_meant() -> None:
    labels = {name: {**pod["metadata"]["labels"]} for name, pod in pods().items()}

    def found(wanted: dict[str, str]) -> set[str]:
        return {name for name, has in labels.items() if wanted.items() <= has.items()}

    for one in manifests():
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert found(spec["selector"]["matchLabels"]) == {name}
        elif one["kind"] == "Service":
            assert found(spec["selector"]) == {name.removesuffix("-nodes")}
        elif one["kind"] == "PodDisruptionBudget":
            budget = found(spec["selector"]["matchLabels"])
            assert budget
            assert all(one.startswith(name) for one in budget)
        elif one["kind"] == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["name"] == name in labels


def test_networks_let_each_pod_reach_what_compose_lets_it_reach() -> None:
    """A policy per server, for the pods whose service in Compose is in that server's network."""
    services = own_services()
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in manifests()
        if one["kind"] == "NetworkPolicy"
    }
    # The rest is denied: the first policy selects every pod, and allows names alone.
    assert policies["delivery"]["policyTypes"] == ["Ingress", "Egress"]
    for policy, network in {"ledger": "ledger", "broker": "tasks", "bus": "bus"}.items():
        [expression] = policies[policy]["podSelector"]["matchExpressions"]
        reached = {
            name
            for name, pod in pods().items()
            if pod["metadata"]["labels"].get(expression["key"]) in expression["values"]
        }
        composed = {
            "gateway" if name.startswith("gateway-") else name
            for name, service in services.items()
            if network in service["networks"]
        }
        assert reached == composed, policy


def test_prometheus_finds_and_reaches_what_it_reaches_in_compose() -> None:
    """Workers are scaled by a figure of beat's, gateways by one of their own."""
    shown = {"gateway", *(n for n, one in own_services().items() if "scrape" in one["networks"])}
    [policy] = [
        one["spec"] for one in of_kind("NetworkPolicy") if one["metadata"]["name"] == "metrics"
    ]
    [kinds] = policy["podSelector"]["matchExpressions"]
    for name, pod in pods().items():
        notes = pod["metadata"].get("annotations", {})
        assert ("prometheus.io/port" in notes) == (name in shown), name
        if name not in shown:
            continue
        port = int(notes["prometheus.io/port"])
        assert port in [one["containerPort"] for one in container(name)["ports"]]
        if name != "gateway":
            assert environment(name)["DELIVERY_METRICS_PORT"] == str(port)
            assert pod["metadata"]["labels"][kinds["key"]] in kinds["values"]
            assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port}]


def test_the_overlay_for_webhooks_names_what_the_base_has_and_is_valid() -> None:
    shown = [one for one in blocks("docs/kubernetes.md") if "webhooks" in one.code]
    [overlay, policy] = [yaml.safe_load(one.code) for one in shown if one.language == "yaml"]
    patch = yaml.safe_load(overlay["patches"][0]["patch"])
    [changed] = patch["spec"]["template"]["spec"]["containers"]
    assert changed["name"] == container(patch["metadata"]["name"])["name"]
    assert {one["name"] for one in changed["env"]} == {"DELIVERY_WEBHOOKS"}
    kubernetes_validate.validate(policy, VERSIONS[0], strict=True)
    assert "emergency" in container(patch["metadata"]["name"])["args"]
