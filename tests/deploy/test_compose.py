"""The compose files: they parse, fit together, name real settings, real files and real probes.

No container engine is here to run them; `docker compose config` checks them where the client has it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
from tests.deploy.documents import APPS, DEPLOY, check_image, check_settings, documents, routes_of

STACKS = {
    "postgres-only": ["compose.yaml"],
    "postgres-nats": ["compose.yaml", "compose.nats.yaml"],
    "postgres-kafka": ["compose.yaml", "compose.kafka.yaml"],
}
SCHEMES = {"postgres-only": "postgresql", "postgres-nats": "nats", "postgres-kafka": "kafka"}
PASSWORDS = re.findall(r"^(\w+)=$", (DEPLOY / ".env.example").read_text(), re.MULTILINE)


def merged(base: Any, over: Any) -> Any:
    """As compose merges files: mappings by key, all else replaced (none of ours has a list in two files)."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {name: merged(base[name], over[name]) if name in base and name in over else base.get(name, over.get(name))
            for name in [*base, *(name for name in over if name not in base)]}  # fmt: skip


def stack(name: str) -> dict[str, Any]:
    project: Any = {}
    for file in STACKS[name]:
        [document] = documents(DEPLOY / file)
        project = merged(project, document)
    assert isinstance(project, dict)
    return project


def filled(value: str) -> str:
    """With the variables of .env in it: only those that .env.example names."""

    def put(found: re.Match[str]) -> str:
        assert found[1] in PASSWORDS, f"{found[1]} is not in .env.example"
        return "secret"

    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", put, value)


def ours(project: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in project["services"].items() if "build" in each}


@pytest.mark.parametrize("name", STACKS)
def test_services_have_settings_that_are_read(name: str, caplog: pytest.LogCaptureFixture) -> None:
    services = ours(stack(name))
    assert set(services) == {"orders", "customers", "order_history"}
    brokers = set()
    for service, each in services.items():
        settings = check_settings(service, {k: filled(v) for k, v in each["environment"].items()}, caplog)
        brokers.add(settings.broker)
        assert settings.database == f"postgresql://{service}:secret@postgres:5432/{service}"
    [broker] = brokers
    assert broker.partition(":")[0] == SCHEMES[name]


@pytest.mark.parametrize("name", STACKS)
def test_services_start_an_app_that_exists_and_are_asked_for_a_path_that_it_has(name: str) -> None:
    for service, each in ours(stack(name)).items():
        program, app, *_ = each["command"]
        assert program == "uvicorn"
        assert app == f"shop.{service}.app:app"
        [path] = re.findall(r"http://127.0.0.1:8000(/\w+)", each["healthcheck"]["test"][-1])
        assert path in routes_of(APPS[app])
        assert each["command"][-1] == "8000"
        assert all(port.endswith(":8000") and port.startswith("127.0.0.1:") for port in each["ports"])


@pytest.mark.parametrize("name", STACKS)
def test_what_a_service_waits_for_is_there_and_has_a_health_check(name: str) -> None:
    project = stack(name)
    for service, each in project["services"].items():
        check_image(each["image"])
        assert "healthcheck" in each, service
        for needed, how in each.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in project["services"][needed]
        hosts = {re.sub(r"^.*@|^\w+://|[:/].*$", "", v.split("://")[1]) for k, v in each.get("environment", {}).items()
                 if k.startswith("ENSUE_") and "://" in v}  # fmt: skip
        assert hosts <= set(each.get("depends_on", {})), "it waits for what its URLs name"


@pytest.mark.parametrize("name", STACKS)
def test_a_service_shares_a_network_with_what_it_needs_and_with_no_other_service(name: str) -> None:
    project = stack(name)
    for service, each in ours(project).items():
        assert each["networks"] == [service]
        assert service in project["networks"]
        met = {other for other, found in project["services"].items() if service in found["networks"]}
        assert met == {service, *each["depends_on"]}


@pytest.mark.parametrize("name", STACKS)
def test_services_run_without_rights_they_do_not_need(name: str) -> None:
    assert re.search(r"^USER 10001$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for each in ours(stack(name)).values():
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", STACKS)
def test_volumes_and_files_that_are_mounted_exist(name: str) -> None:
    project = stack(name)
    for each in project["services"].values():
        for mount in each.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), source
            else:
                assert source in project["volumes"]
        if "build" in each:
            context = (DEPLOY / each["build"]["context"]).resolve()
            assert (context / each["build"]["dockerfile"]).is_file()


def test_each_database_that_a_service_uses_is_made_with_its_password() -> None:
    script = (DEPLOY / "postgres/databases.sh").read_text()
    made = dict(re.findall(r'^make (\w+) "\$(\w+)"$', script, re.MULTILINE))
    environment = stack("postgres-only")["services"]["postgres"]["environment"]
    assert set(made) == {"orders", "customers", "order_history", "ensue_log"}
    assert set(made.values()) <= set(environment)
    assert set(environment) == set(PASSWORDS)
    assert os.access(DEPLOY / "postgres/databases.sh", os.X_OK)


def test_what_the_image_is_made_of_exists_and_is_not_ignored() -> None:
    root = DEPLOY.parent
    kept = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
              for word in line.split()[:-1]]  # fmt: skip
    assert copied
    for each in copied:
        assert (root / each).exists(), each
        assert any(each == keep or each.startswith(f"{keep}/") for keep in kept), f"{each} is ignored"
    for image in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE):
        check_image(image)


@pytest.mark.parametrize("name", STACKS)
def test_compose_itself_takes_the_files(name: str) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("`docker compose` is not installed")
    files = [part for file in STACKS[name] for part in ("-f", str(DEPLOY / file))]
    done = subprocess.run(
        [docker, "compose", *files, "config", "--quiet"],
        env={**os.environ, **dict.fromkeys(PASSWORDS, "secret")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
