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
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pytest
import yaml  # type: ignore[import-untyped]  # see documents.py
from tests.deploy.documents import APPS, DEPLOY, check_image, check_settings, documents, routes_of

from ensue.config import EngineConfig

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
SCHEMES = {"postgres-only": "postgresql", "postgres-nats": "tls", "postgres-kafka": "kafkas"}
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


def mounts(deployment: Manifest) -> set[str]:
    """The directories in which it finds files of a ConfigMap."""
    volumes = {each["name"] for each in deployment["spec"]["template"]["spec"]["volumes"] if "configMap" in each}
    return {each["mountPath"] for each in container(deployment)["volumeMounts"] if each["name"] in volumes}


def secret_files(deployment: Manifest, secrets: Mapping[str, Manifest]) -> tuple[set[str], dict[str, str]]:
    """The keys of the secret that it mounts, and by its path what each file says. Its group, which is its user's own,
    reads them, and nobody else does."""
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    [volume] = [each for each in pod["volumes"] if "secret" in each]
    assert volume["secret"]["defaultMode"] == 0o440
    [mount] = [each for each in container(deployment)["volumeMounts"] if each["name"] == volume["name"]]
    assert mount["readOnly"] is True
    data = secrets[volume["secret"]["secretName"]]["data"]
    items = volume["secret"]["items"]
    files = {f"{mount['mountPath']}/{each['path']}": base64.b64decode(data[each["key"]]).decode() for each in items}
    return {each["key"] for each in items}, files


def check_verified(url: SplitResult) -> str:
    """The URL demands TLS by the name of an authority; return the directory of its file."""
    options = dict(parse_qsl(url.query))
    [file] = [Path(value) for name, value in options.items() if name in ("sslrootcert", "tls_ca", "ca")]
    assert "sslmode" not in options
    return str(file.parent)


def policies(manifests: list[Manifest], name: str) -> list[Manifest]:
    """The network policies of a service's pods."""
    found = []
    for policy in of_kind(manifests, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        [key, names] = (
            [next(iter(selector["matchLabels"])), list(selector["matchLabels"].values())]
            if "matchLabels" in selector
            else [selector["matchExpressions"][0]["key"], selector["matchExpressions"][0]["values"]]
        )
        assert key == "app.kubernetes.io/name"
        if name in names:
            found.append(policy["spec"])
    return found


def reachable(manifests: list[Manifest], name: str) -> set[tuple[str, int]]:
    """Pods, by the label with their name, and ports that a service may reach."""
    found = set()
    for policy in policies(manifests, name):
        assert "Egress" in policy["policyTypes"]
        for rule in policy["egress"]:
            for to in rule["to"]:
                [label] = to["podSelector"]["matchLabels"].values()
                found |= {(label, port["port"]) for port in rule["ports"]}
    return found


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
def test_settings_come_from_what_is_rendered_and_are_read(
    overlay: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    manifests = rendered(overlay)
    configs, secrets = of_kind(manifests, "ConfigMap"), of_kind(manifests, "Secret")
    for deployment in deployments(manifests):
        each = container(deployment)
        environment: dict[str, str] = {}
        for source in each["envFrom"]:
            environment |= configs[source["configMapRef"]["name"]]["data"]
        environment |= {variable["name"]: variable["value"] for variable in each["env"]}
        keys, files = secret_files(deployment, secrets)
        name = deployment["metadata"]["name"]
        service = name.replace("-", "_")
        of_its_own = f"ENSUE_{service.upper()}_"
        assert keys == {f"{of_its_own}BROKER", f"{of_its_own}DATABASE"}, "no other service's accounts"
        settings = check_settings(service, environment, files, tmp_path, caplog)
        assert settings.broker.partition(":")[0] == SCHEMES[overlay]
        if overlay != "postgres-only":  # where the log is one database, and its tables one role's
            assert urlsplit(settings.broker).username == service
        urls = [urlsplit(each) for each in (settings.database, settings.broker)]
        for url in urls:
            assert check_verified(url) in mounts(deployment)
        assert reachable(manifests, name) == {("kube-dns", 53), *((each.hostname, each.port) for each in urls)}
        assert urls[0].hostname == f"{name}-postgres", "its own database, and nobody else's"
        assert urls[0].username == f"{service}_service", "the role of deploy/postgres/roles"
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
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in pod
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(each["resources"]["requests"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_but_the_ingress_reaches_a_service(overlay: str) -> None:
    manifests = rendered(overlay)
    for deployment in deployments(manifests):
        rules = [
            rule for each in policies(manifests, deployment["metadata"]["name"]) for rule in each.get("ingress", ())
        ]
        assert rules == [
            {
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
                "ports": [{"port": container(deployment)["ports"][0]["name"]}],
            }
        ]
        assert any("Ingress" in each["policyTypes"] for each in policies(manifests, deployment["metadata"]["name"]))


def test_no_password_but_an_example_is_checked_in() -> None:
    for file in KUBERNETES.rglob("*.env"):
        for password in re.findall(r"://\w+:([^@]+)@", Path(file).read_text()):
            assert password == "change-me"
