"""A flow goes elsewhere as Mermaid and as links to traces; the catalogue says which change of a message breaks whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.console.conftest import HOSTILE, Open, until
from tests.console.test_pages import Read
from tests.console.world import Wired, bank

import ensue.console
from ensue import Event, Origin, UsageError, coming_from
from ensue.console.rendering import link
from ensue.contracts.contract import contract_of, owned
from ensue.contracts.files import file_name, write

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENSUE_PARTITIONS", "1")


async def flow_with(*events: Event, letters: int) -> str:
    async with bank.running() as runtime:
        with coming_from(Origin(traceparent=f"00-{TRACE}-b7ad6b7169203331-00")):
            async with bank.step() as step:
                for each in events:
                    step.publish(each)
        books = runtime.context.books

        async def aside() -> bool:
            return len(await books.letters()) == letters

        await until(aside)
    return step.correlation_id


async def test_a_flow_leads_to_its_trace_its_letters_and_a_diagram(browse: Open) -> None:
    account = HOSTILE.replace("\x00", "")
    flow = await flow_with(Wired(account="ann", pence=1), Wired(account=account, pence=-1), letters=1)
    browser = browse(options={"trace_url": "https://traces.test/trace/{trace_id}?from=console"})
    page = await browser.page(link("/flow", id=flow))
    read = Read(page)
    assert f"https://traces.test/trace/{TRACE}?from=console" in read.links
    assert [each for each in read.links if each.startswith("/letter?")]
    assert "<script>alert" not in page
    assert "\u202e" not in read.text
    [file] = [each for each in read.links if each.startswith("/flow.mmd")]
    answer = await browser.get(file)
    assert answer.headers["content-disposition"] == f'attachment; filename="flow-{flow}.mmd"'
    diagram = answer.text
    assert diagram.startswith("sequenceDiagram\n")
    assert "<" not in diagram  # none of what strangers wrote is Mermaid's own syntax, or HTML
    assert page.split('<pre id="mermaid-text" tabindex="0">')[1].split("</pre>")[0] == diagram.replace(">", "&gt;")
    assert (await browser.get(link("/flow.mmd", id="none"))).status_code == 404
    without = Read(await browse().page(link("/flow", id=flow)))
    assert "Traces" not in without.text


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://traces.test/trace", "does not say where the trace's id goes"),
        ("javascript:alert('{trace_id}')", "is no address of http or https"),
        ("/trace/{trace_id}", "is no address of http or https"),
        ("https://ann:secret@traces.test/{trace_id}", "names a user"),
    ],
)
def test_what_is_no_link_to_a_trace_is_refused_at_the_start(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        ensue.console.app(bank, authorize=lambda _: None, trace_url=url)
    assert "secret" not in str(error.value)


async def test_the_catalogue_says_which_change_breaks_whom(browse: Open, tmp_path: Path) -> None:
    assert "Give the directory of committed schemas" in await browse(services=(bank,)).page("/topology")
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    for name, each in owned([contract_of(bank)]).items():
        (schemas / file_name(name)).write_bytes(write(each, ["bank"]))
    same = Read(await browse(services=(bank,), options={"schemas": schemas}).page("/topology"))
    assert "Nothing is different from the committed schemas" in same.text
    # Amounts were texts when it was committed, and the log holds some of these.
    path = schemas / "wires.WiredToBank.v1.json"
    document = json.loads(path.read_text())
    definition = document.get("$defs", {}).get("Wired", document)
    definition["properties"]["pence"] = {"type": "string"}
    path.write_text(json.dumps(document))
    changed = Read(await browse(services=(bank,), options={"schemas": schemas}).page("/topology"))
    assert "breaking" in changed.text
    assert "integer is written, and string is read" in changed.text
    (schemas / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="no schema that Ensue has written"):
        ensue.console.app(bank, authorize=lambda _: None, schemas=schemas)


async def test_the_document_of_a_service_is_shown_or_taken_as_a_file(browse: Open) -> None:
    browser = browse(services=(bank,))
    assert "content-disposition" not in (await browser.get("/asyncapi.json?service=bank")).headers
    file = await browser.get("/asyncapi.json?service=bank&file=1")
    assert file.headers["content-disposition"] == 'attachment; filename="bank.asyncapi.json"'
    assert file.json()["asyncapi"].startswith("3.")
