from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

SERVICES = """
from ensue import Event, Service, Step

class Asked(Event, topic="plugin-questions", key="who"):
    who: str

class Answered(Event, topic="plugin-answers", key="who"):
    who: str

asker = Service("asker")
answerer = Service("answerer")

@answerer.on
async def answer(event: Asked, step: Step) -> None:
    step.publish(Answered(who=event.who))
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(services=SERVICES)
    return pytester


def run_pytest(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "ensue.testing.plugin", "--asyncio-mode=auto")
    return project.runpytest_subprocess(*plugins, *arguments)


def test_a_world_runs_the_services_of_a_test(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from services import Answered, Asked, answerer, asker

        async def test_answers(ensue_world):
            async with ensue_world(asker, answerer) as world:
                async with asker.step() as step:
                    step.publish(Asked(who="me"))
                await world.settle()
                assert await world.published(Answered) == [Answered(who="me")]
    """)
    run_pytest(project).assert_outcomes(passed=1)


def test_a_failing_test_reports_the_seed_and_how_to_use_it_again(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from services import asker

        async def test_fails(ensue_world):
            async with ensue_world(asker):
                raise AssertionError("for the seed's sake")
    """)
    result = run_pytest(project, "--ensue-seed=77")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*seed 77; again with: pytest --ensue-seed=77*"])


def test_a_home_of_the_test_s_own_hides_what_the_environment_says(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSUE_BROKER", "kafka://production")
    monkeypatch.setenv("ENSUE_ASKER_DATABASE", "postgresql://production/asker")
    monkeypatch.setenv("ENSUE_BROKER_FILE", "/run/secrets/production")
    monkeypatch.setenv("ENSUE_ASKER_DATABASE_FILE", "/run/secrets/production")
    project.makepyfile("""
        from services import asker

        def test_home(ensue_home):
            settings = asker.settings()
            assert settings.database == f"sqlite:///{ensue_home}/asker.db"
            assert settings.broker == f"sqlite:///{ensue_home}/broker.db"
    """)
    run_pytest(project).assert_outcomes(passed=1)


def test_the_plugin_imports_no_database_and_no_engine_of_worlds() -> None:
    heavy = ("sqlalchemy", "ensue.stores", "ensue.brokers", "ensue.testing.world", "rich", "typer")
    code = f"import sys, ensue.testing.plugin; print([name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
