"""The Kubernetes manifests: each overlay renders, and what it renders is consistent and names what exists.

No cluster is here to apply them to. kustomize (in kubectl) needs none.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # see documents.py
from tests.deploy.documents import APPS, DEPLOY, check_image, check_settings, documents, routes_of

from ensue.config import EngineConfig

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
SCHEMES = {"postgres-only": "postgresql", "postgres-nats": "nats", "postgres-kafka": "kafka"}
Manifest = Mapping[str, Any]


def rendered(overlay: str) -> list[Manifest]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl (for kustomize) is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def deployments(manifests: list[Manifest]) -> list[Manifest]:
    found = [each for each in manifests if each["kind"] == "Deployment"]
    assert {each["metadata"]["name"] for each in found} == {"orders", "customers", "order-history"}
    return found


def container(deployment: Manifest) -> Manifest:
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def check_probes(deployment: Manifest) -> None:
    each = container(deployment)
    app = APPS[each["command"][1]]
    [port] = each["ports"]
    assert each["command"][-1] == str(port["containerPort"])
    paths = {}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = each[name]
        paths[name] = probe["httpGet"]["path"]
        assert probe["httpGet"]["port"] == port["name"]
        assert paths[name] in routes_of(app), f"{paths[name]} is no route of {each['command'][1]}"
        assert probe["timeoutSeconds"] > 2 * 2.0, (
            "longer than a probe may take: answer_s for the store, then the broker"
        )
    assert paths["readinessProbe"] == "/readyz"
    assert paths["livenessProbe"] == "/livez", "a database that is down must not restart everything"


def test_an_overlay_for_each_stack() -> None:
    assert sorted(SCHEMES) == OVERLAYS


@pytest.mark.parametrize("name", ["orders", "customers", "order-history"])
def test_probes_ask_for_paths_that_the_app_has_and_give_them_time(name: str) -> None:
    deployment, service, budget = documents(KUBERNETES / "base" / f"{name}.yaml")
    assert (deployment["kind"], service["kind"], budget["kind"]) == ("Deployment", "Service", "PodDisruptionBudget")
    check_probes(deployment)
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > EngineConfig().stop_limit_s


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_come_from_what_is_rendered_and_are_read(overlay: str, caplog: pytest.LogCaptureFixture) -> None:
    manifests = rendered(overlay)
    configs, secrets = of_kind(manifests, "ConfigMap"), of_kind(manifests, "Secret")
    for deployment in deployments(manifests):
        each = container(deployment)
        environment: dict[str, str] = {}
        for source in each["envFrom"]:
            environment |= configs[source["configMapRef"]["name"]]["data"]
        for variable in each["env"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            value = secrets[reference["name"]]["data"][reference["key"]]
            environment[variable["name"]] = base64.b64decode(value).decode()
        service = deployment["metadata"]["name"].replace("-", "_")
        settings = check_settings(service, environment, caplog)
        assert settings.broker.partition(":")[0] == SCHEMES[overlay]
        assert settings.engine.stop_limit_s < deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_pods_they_are_for(overlay: str) -> None:
    manifests = rendered(overlay)
    services, budgets = of_kind(manifests, "Service"), of_kind(manifests, "PodDisruptionBudget")
    for deployment in deployments(manifests):
        name = deployment["metadata"]["name"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            services[name]["spec"]["selector"],
            budgets[name]["spec"]["selector"]["matchLabels"],
        ):
            assert selector
            assert selector.items() <= labels.items()
        [port] = services[name]["spec"]["ports"]
        assert port["targetPort"] == container(deployment)["ports"][0]["name"]
        assert deployment["spec"]["replicas"] >= 2
        assert deployment["metadata"]["namespace"] == "shop"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_an_app_that_exists_without_rights_they_do_not_need(overlay: str) -> None:
    for deployment in deployments(rendered(overlay)):
        each, pod = container(deployment), deployment["spec"]["template"]["spec"]
        check_image(each["image"])
        check_probes(deployment)
        assert each["command"][1] == f"shop.{deployment['metadata']['name'].replace('-', '_')}.app:app"
        user = re.search(r"--uid (\d+)", (DEPLOY / "Dockerfile").read_text())
        assert user is not None
        assert pod["securityContext"]["runAsUser"] == int(user[1])
        assert each["securityContext"]["readOnlyRootFilesystem"]
        assert {"cpu", "memory"} <= set(each["resources"]["requests"])


def test_no_password_but_an_example_is_checked_in() -> None:
    for file in KUBERNETES.rglob("*.env"):
        for password in re.findall(r"://\w+:([^@]+)@", Path(file).read_text()):
            assert password == "change-me"
