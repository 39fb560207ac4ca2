"""The compose files: they parse, fit together, name real settings, real files and real probes.

No container engine is here to run them; `docker compose config` checks them where the client has it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.deploy.documents import APPS, DEPLOY, check_image, check_settings, documents, routes_of

STACKS = {
    "postgres-only": ["compose.yaml"],
    "postgres-nats": ["compose.yaml", "compose.nats.yaml"],
    "postgres-kafka": ["compose.yaml", "compose.kafka.yaml"],
}
SCHEMES = {"postgres-only": "postgresql", "postgres-nats": "nats", "postgres-kafka": "kafka"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What secrets.sh makes."""
    directory = tmp_path_factory.mktemp("deploy") / "secrets"
    subprocess.run(["sh", DEPLOY / "secrets.sh", directory], check=True, timeout=30)
    return directory


def mounted(each: Mapping[str, Any], project: Mapping[str, Any], secrets: Path) -> dict[str, str]:
    """By its path in the container, what each secret says that a service is given."""
    found = {}
    for name in each.get("secrets", ()):
        file = project["secrets"][name]["file"]
        assert file == f"./secrets/{name}"
        found[f"/run/secrets/{name}"] = (secrets / name).read_text()
    return found


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


def ours(project: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in project["services"].items() if "build" in each}


@pytest.mark.parametrize("name", STACKS)
def test_services_have_settings_that_are_read(
    name: str, caplog: pytest.LogCaptureFixture, secrets: Path, tmp_path: Path
) -> None:
    project = stack(name)
    services = ours(project)
    assert set(services) == {"orders", "customers", "order_history"}
    brokers = set()
    for service, each in services.items():
        files = mounted(each, project, secrets)
        settings = check_settings(service, each["environment"], files, tmp_path, caplog)
        brokers.add(settings.broker)
        password = (secrets / f"{service}_password").read_text()
        assert settings.database == f"postgresql://{service}:{password}@postgres:5432/{service}"
        assert files.keys() == {"/run/secrets/broker", f"/run/secrets/{service}_database"}, "and nobody else's"
    [broker] = brokers
    assert broker.partition(":")[0] == SCHEMES[name]


def test_secrets_are_made_once_each_another_one_and_for_their_owner(secrets: Path) -> None:
    made = {each.name: each.read_text() for each in secrets.iterdir()}
    assert set(made) == set(stack("postgres-only")["secrets"])
    passwords = [text for name, text in made.items() if name.endswith("_password")]
    assert len(set(passwords)) == len(passwords) == 5
    assert all(re.fullmatch("[0-9a-f]{48}", each) for each in passwords), "they become part of URLs"
    subprocess.run(["sh", DEPLOY / "secrets.sh", secrets], check=True, timeout=30)
    assert {each.name: each.read_text() for each in secrets.iterdir()} == made
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in secrets.iterdir()} == {0o444}, "the containers' users read them"
    ignored = (DEPLOY.parent / ".gitignore").read_text().split()
    assert "deploy/secrets/" in ignored


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
def test_what_a_service_waits_for_is_there_and_has_a_health_check(name: str, secrets: Path) -> None:
    project = stack(name)
    for service, each in project["services"].items():
        check_image(each["image"])
        assert "healthcheck" in each, service
        for needed, how in each.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in project["services"][needed]
        files = mounted(each, project, secrets)
        given = [files.get(v, v) for k, v in each.get("environment", {}).items() if k.startswith("ENSUE_")]
        hosts = {urlsplit(v).hostname for v in given if "://" in v}
        assert len(hosts) == ("build" in each) * (1 if name == "postgres-only" else 2)
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
    made = dict(re.findall(r"^make (\w+) (\w+)$", script, re.MULTILINE))
    postgres = stack("postgres-only")["services"]["postgres"]
    assert set(made) == {"orders", "customers", "order_history", "ensue_log"}
    assert {*made.values(), "postgres_password"} == set(postgres["secrets"])
    assert postgres["environment"] == {"POSTGRES_PASSWORD_FILE": "/run/secrets/postgres_password"}
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
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
