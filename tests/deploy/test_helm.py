"""The Helm chart: linted and rendered by Helm's own engine, and what it renders held against Kubernetes' schemas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.compose_stage import image_of

from fwdllm_server.config.server_config import load_config

helm = pytest.importorskip(
    "helm_python", reason="helm-python-sdk is not installed; it has wheels for some machines only"
)
kubernetes_validate = pytest.importorskip("kubernetes_validate")

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "deploy" / "helm" / "fwdllm"
SMALL = {"public": {"device": "fleet.example:7443", "enrolment": "fleet.example:7444"}}
FULL = {
    "public": {"device": "devices.fleet.example:443", "enrolment": "join.fleet.example:443"},
    "image": {"repository": "registry.example/fwdllm-server", "tag": "next"},
    "imagePullSecrets": [{"name": "registry"}],
    "coordinators": 3,
    "folder": {"claim": "models"},
    "ingress": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "environment": {"FWDLLM_LIMITS__CONNECTIONS_PER_NETWORK": "1000"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "training", "operator": "Exists"}],
}


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Kubernetes is given, by kind and name."""
    files = helm.Chart.load(CHART).render(values, name="trainer", namespace="fleet")
    every = [found for path, text in files.items() if path.endswith(".yaml") for found in yaml.safe_load_all(text)]
    return {f"{found['kind']} {found['metadata']['name']}": found for found in every if found}


def coordinator(values: dict[str, Any]) -> dict[str, Any]:
    (container,) = rendered(values)["Deployment trainer"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("values", [SMALL, FULL], ids=["small", "full"])
def test_helm_finds_no_fault(values: dict[str, Any]) -> None:
    report = helm.lint(CHART, values, strict=True)
    assert report["total_charts_linted"] == 1
    assert report["errors"] == []
    # Helm's one piece of advice is an icon.
    assert [found["error"] for found in report["messages"] if "icon" not in found["error"]] == []


@pytest.mark.parametrize("version", ["1.28", "1.37"])
@pytest.mark.parametrize("values", [SMALL, FULL], ids=["small", "full"])
def test_kubernetes_knows_every_field(values: dict[str, Any], version: str) -> None:
    checked = [found for found in rendered(values).values() if found["apiVersion"] != "monitoring.coreos.com/v1"]
    for found in checked:
        kubernetes_validate.validate(found, version, strict=True)
    assert len(checked) == 4


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"public": {"device": "fleet.example"}},
        SMALL | {"coordinator": 2},
        SMALL | {"environment": {"FWDLLM_LIMITS__CALLS_PER_S": 1}},
    ],
    ids=["nothing", "no port", "unknown key", "number in the environment"],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        helm.Chart.load(CHART).validate_schema(values)


def test_passed_on_tls_needs_a_host_for_each_port() -> None:
    with pytest.raises(helm.HelmError, match="need a host each"):
        rendered(SMALL | {"ingress": {"enabled": True}})


def test_coordinators_are_configured_as_they_read_it(tmp_path: Path) -> None:
    environment = {
        entry["name"]: entry.get("value", "postgresql+psycopg://db/fwdllm") for entry in coordinator(FULL)["env"]
    }
    (tmp_path / "server.toml").touch()
    config = load_config(tmp_path / "server.toml", environment)
    assert config.public.device == FULL["public"]["device"]
    assert config.public.hosts[1:] == ["devices.fleet.example", "join.fleet.example"]
    assert config.store.folder == "/srv/fwdllm"
    assert config.limits.connections_per_network == 1000


def test_container_and_image_agree() -> None:
    dockerfile = REPOSITORY / "deploy" / "docker" / "server.Dockerfile"
    image = image_of(dockerfile, "server", REPOSITORY)
    pod = rendered(SMALL)["Deployment trainer"]["spec"]["template"]["spec"]
    assert image.user == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    container = coordinator(SMALL)
    assert image.healthcheck == container["livenessProbe"]["exec"]["command"]
    assert image.workdir in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    exposed = re.findall(r"^EXPOSE (.+)$", dockerfile.read_text(), re.MULTILINE)[0].split()
    assert sorted(exposed) == [str(port["containerPort"]) for port in container["ports"]]
    assert int(image.environment["FWDLLM_LISTEN__METRICS"].rpartition(":")[2]) == container["ports"][2]["containerPort"]


def test_devices_find_the_ports_that_they_are_told() -> None:
    def ports(values: dict[str, Any]) -> dict[str, int]:
        return {port["name"]: port["port"] for port in rendered(values)["Service trainer"]["spec"]["ports"]}

    other = {"public": {"device": "fleet.example:31443", "enrolment": "fleet.example:31444"}}
    assert ports(SMALL) == {"device": 7443, "enrolment": 7444}
    assert ports(other) == {"device": 31443, "enrolment": 31444}
    rules = rendered(FULL)["Ingress trainer"]["spec"]["rules"]
    passed = {rule["host"]: rule["http"]["paths"][0]["backend"]["service"]["port"]["name"] for rule in rules}
    assert passed == {"devices.fleet.example": "device", "join.fleet.example": "enrolment"}


def test_selectors_select() -> None:
    found = rendered(FULL)
    pod = found["Deployment trainer"]["spec"]["template"]["metadata"]["labels"]
    metrics = found["Service trainer-metrics"]
    for name in ("Service trainer", "Service trainer-metrics"):
        assert found[name]["spec"]["selector"].items() <= pod.items()
    monitor = found["ServiceMonitor trainer"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert (
        not monitor["spec"]["selector"]["matchLabels"].items() <= found["Service trainer"]["metadata"]["labels"].items()
    )
    assert monitor["spec"]["endpoints"][0]["port"] == metrics["spec"]["ports"][0]["name"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
