"""The console in a real browser: Debian's Chromium, without a window.

With ENSUE_PICTURES=1 the pictures in docs/images are made anew by these tests.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.conftest import required
from tests.console.conftest import admin, ask, unrepaired, wire
from tests.console.world import Wired, absent, bank, desk, repair

import ensue.console
from ensue import Service
from ensue.cli.http import Address, listen, served

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page
    from servers import PostgresServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("home")]

PREFIX = "/ops/ensue"
PICTURES = Path(__file__).parents[2] / "docs/images"
WIDTH, HEIGHT = 1280, 720
LIMIT_MS = 20_000


def missing() -> str:
    if importlib.util.find_spec("playwright") is None or importlib.util.find_spec("axe_playwright_python") is None:
        return "no playwright here: make venv"
    return "" if shutil.which("chromium") else "no chromium here: make servers"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    required(missing())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENSUE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("ENSUE_PARTITIONS", "2")
        patch.setenv("ENSUE_ABSENT_DATABASE", "sqlite:////srv/shop/absent.db")  # a path that a picture may show
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(home: Any) -> AsyncIterator[str]:
    """Where the console is, under a prefix. The bank has three letters that wait for somebody, the desk a saga."""
    await wire(("bob", -2, "standing order"), ("bob", 3, ""), ("eve", -5, ""), letters=3)
    await ask("kim")
    async with console_of(bank, desk, absent) as found:
        yield found


@contextlib.asynccontextmanager
async def console_of(*services: Service) -> AsyncIterator[str]:
    """A console of these, under a prefix; its address."""
    targets = {each.name: f"shop.{each.name}:{each.name}" for each in services}
    console = ensue.console.app(*services, authorize=admin, payloads="full", targets=targets, publishing=True)
    with contextlib.closing(listen(Address("127.0.0.1", 0))) as listening:
        async with served(Starlette(routes=[Mount(PREFIX, console)]), listening, lifespan=False):
            yield f"http://127.0.0.1:{listening.getsockname()[1]}{PREFIX}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(home: Any) -> AsyncIterator[Browser]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(chromium: Browser) -> AsyncIterator[Callable[..., Any]]:
    """A page of a new context. What it is refused by its policy, and errors of its script, fail the test."""
    complaints: list[str] = []
    contexts = []

    async def new(**options: Any) -> Page:
        context = await chromium.new_context(viewport={"width": WIDTH, "height": HEIGHT}, **options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(LIMIT_MS)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield new
    for each in contexts:
        await each.close()
    # A service whose database is not there is answered 503, which the browser writes down too.
    assert [each for each in complaints if "status of 503" not in each] == []


async def picture(page: Page, name: str) -> None:
    if os.environ.get("ENSUE_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        await page.locator("body").screenshot(path=PICTURES / f"console-{name}.png")


async def tab_to(page: Page, selector: str) -> None:
    """Press Tab until what the selector finds has the focus."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"nobody gets to {selector} by Tab")


async def test_a_letter_dies_and_the_list_changes_without_a_reload(url: str, open_page: Callable[..., Any]) -> None:
    page = await open_page()
    await page.goto(f"{url}/failures")
    await page.wait_for_selector("#groups")
    assert await page.locator("#groups tbody tr").count() == 1
    await page.evaluate("window.here = true")
    await page.focus("#groups tbody a")
    async with bank.running(), bank.step() as step:
        step.publish(Wired(account="nobody", pence=1))
    async with bank.running():
        await page.wait_for_selector("#groups tbody tr:nth-child(2)")
    assert await page.evaluate("window.here") is True
    # Who was on a link is on it still.
    assert "/group?" in await page.evaluate("document.activeElement.getAttribute('href')")
    await picture(page, "failures")


async def test_a_page_that_nobody_looks_at_asks_for_nothing(url: str, open_page: Callable[..., Any]) -> None:
    page = await open_page()
    look = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    async with page.expect_request("**/changes?*"):
        await page.goto(f"{url}/failures")
    async with page.expect_event("requestfailed", lambda request: "/changes?" in request.url):  # it is given up
        await page.evaluate(look, True)
    async with page.expect_request("**/changes?*"):
        await page.evaluate(look, False)


async def test_back_and_deep_links_lead_to_what_was_there(url: str, open_page: Callable[..., Any]) -> None:
    page = await open_page()
    await page.goto(f"{url}/failures")
    await page.click("text=ValueError")
    await page.click("#letters a")
    letter, heading = page.url, await page.inner_text("h1")
    assert "wires/" in heading
    await page.go_back()
    assert "ValueError" in await page.inner_text("h1")
    await page.go_back()
    assert await page.inner_text("h1") == "Failures"
    other = await open_page()
    await other.goto(letter)
    assert await other.inner_text("h1") == heading
    # And it still hears of changes after it came back out of the browser's memory.
    await page.go_forward()
    await page.wait_for_selector("#letters")


async def tried_again_by_keyboard(url: str, page: Page, shown: str = "") -> None:
    """From the overview to a group of failures, to try it again, until it has drained. shown: name of a picture."""
    await page.goto(f"{url}/")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "To the content"
    await tab_to(page, "a[href$='/failures']")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#groups")
    await tab_to(page, "#groups th a")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#letters")
    heading = await page.inner_text("h1")
    await tab_to(page, "form:has(input[value=retry]) input[name=reason]")
    await page.keyboard.type("negative amounts are refunds")
    repair()
    try:
        async with bank.running() as runtime:
            await runtime.ready()
            await page.keyboard.press("Enter")
            await page.wait_for_selector("text=took effect")
            await page.wait_for_selector("dd:text-is('done')")
            if shown:
                await picture(page, shown)
    finally:
        unrepaired()
    await page.click("text=Back")
    assert "ValueError" in heading
    await page.wait_for_selector("text=Nothing of this group has failed any more")
    await page.click("text=Decisions")
    assert "negative amounts are refunds" in await page.inner_text("#decisions")


async def test_a_group_is_tried_again_by_keyboard_alone_and_drains(url: str, open_page: Callable[..., Any]) -> None:
    await tried_again_by_keyboard(url, await open_page(), "run")


async def test_the_same_on_postgresql(
    postgres_server: PostgresServer,
    open_page: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    monkeypatch.setenv("ENSUE_BANK_DATABASE", postgres_server.url("console", "postgresql+asyncpg"))
    await wire(("bob", -2, ""), ("bob", 3, ""), ("eve", -5, ""), letters=3)
    async with console_of(bank) as address:
        page = await open_page()
        await tried_again_by_keyboard(address, page)
        # What else asks the database in a way of its own: counters, records and losses.
        for path, found in (
            ("/partition?service=bank&topic=wires&number=0", "#counters"),
            ("/outbox?service=bank&key=bob&sent=yes", "#records"),
            ("/losses", "#epochs"),
            ("/restored?service=bank", "#report"),
        ):
            await page.goto(f"{address}{path}")
            await page.wait_for_selector(found)


async def test_every_screen_is_accessible_in_light_and_in_dark(url: str, open_page: Callable[..., Any]) -> None:
    # It has no types.
    axe = importlib.import_module("axe_playwright_python.async_playwright").Axe()
    async with bank.running(work=False), bank.step() as step:
        step.publish(Wired(account="ann", pence=7))
    paths = [
        "/", "/failures", "/partition?service=bank&topic=wires&number=0", "/services/bank", "/services/absent",
        "/saga?service=desk&key=answer:kim", "/outbox?service=bank", "/topology", "/decisions",
        "/losses", "/restored?service=bank", "/publish?service=bank", "/log?service=bank&topic=wires&number=0",
    ]  # fmt: skip
    everything, colours = {"resultTypes": ["violations"]}, {"runOnly": ["color-contrast"]}
    for scheme, some, options in (("light", paths, everything), ("dark", paths[:3], colours)):
        page = await open_page(color_scheme=scheme)
        for path in some:
            await page.goto(f"{url}{path}")
            if path == "/" and scheme == "light":
                await picture(page, "overview")
            found = await axe.run(page, options=options)
            assert found.violations_count == 0, f"{scheme} {path}: {found.generate_report()}"
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= WIDTH, f"{path} is {wide} pixels wide"
    await page.goto(f"{url}/outbox?service=bank")
    await page.click("#records td a >> nth=0")
    await page.wait_for_selector("svg.drawing")
    assert (await axe.run(page)).violations_count == 0
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.click("[data-copies]")
    await page.wait_for_selector("text=Copied")
    assert (await page.evaluate("navigator.clipboard.readText()")).startswith("sequenceDiagram")


async def test_it_works_without_a_script(url: str, open_page: Callable[..., Any]) -> None:
    page = await open_page(java_script_enabled=False)
    await page.goto(f"{url}/partition?service=bank&topic=wires&number=1")
    for do, found in (("pause", "paused"), ("resume", "not paused")):
        form = page.locator(f"form:has(input[value={do}])")
        await form.locator("input[name=reason]").fill("by hand")
        await form.locator("button").click()
        assert f"partition wires/1: {do} is done; {found}" in await page.inner_text("#outcome")


async def test_a_service_that_comes_up_is_shown_without_a_reload(
    url: str, open_page: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSUE_ABSENT_DATABASE", f"sqlite:///{tmp_path}/absent.db")
    page = await open_page()
    await page.goto(f"{url}/services/absent")
    await page.wait_for_selector("text=run the service once")
    async with absent.running(work=False):
        await page.wait_for_selector("#partitions")  # its database is there now
