"""`ensue schemas` and `ensue asyncapi`: files beside the code, each service in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.harness import Ended

Run = Callable[..., Ended]

SHOP = """
print("a module may say what it likes")
from ensue import Event, Service

class Booked(Event, topic="rooms", key="room"):
    room: str
    nights: int

hotel = Service("hotel", publishes=[Booked], broker="kafka://log:9092")
quiet = Service("quiet", publishes=[])
"""
MAIL = """
from ensue import Event, Service

class Booked(Event, topic="rooms", key="room"):
    room: str
    nights: int

mail = Service("mail", publishes=[])
gate = Service("gate", publishes=[Booked])

@mail.on
def confirm(event: Booked) -> None: ...
"""
NAME = "rooms.Booked.v1"


@pytest.fixture
def here(ensue: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two modules, in which two services have each a class of its own for one event."""
    (tmp_path / "contracts_hotel.py").write_text(SHOP)
    (tmp_path / "contracts_mail.py").write_text(MAIL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_export_writes_files_that_check_holds_the_code_to(ensue: Run, here: Path) -> None:
    missing = ensue("schemas", "export", "contracts_hotel:hotel", "--check")
    assert (missing.code, f"schemas/{NAME}.json is not there" in missing.err) == (1, True)
    assert not (here / "schemas").exists(), "--check writes nothing"
    first = ensue("schemas", "export", "contracts_hotel:hotel")
    assert (first.code, first.out.splitlines()[0]) == (0, f"written: schemas/{NAME}.json")
    file = here / "schemas" / f"{NAME}.json"
    data = file.read_bytes()
    assert ensue("schemas", "export", "contracts_hotel:hotel", "--check").code == 0
    again = ensue("schemas", "export", "contracts_hotel:hotel")
    assert (again.out, file.read_bytes()) == ("1 of 1 in schemas were as the code says\n", data)
    change(here / "contracts_hotel.py", "nights: int", "nights: int\n    stars: int = 3")
    other = ensue("schemas", "export", "contracts_hotel:hotel", "--check")
    assert (other.code, "is not what the code says" in other.err) == (1, True)
    assert file.read_bytes() == data


def test_check_says_which_reader_a_change_breaks_and_ends_with_1(ensue: Run, here: Path) -> None:
    ensue("schemas", "export", "contracts_hotel:hotel", "--to", "kept")
    asked = ("schemas", "check", "contracts_hotel:hotel", "--against", "kept", "--readers", "contracts_mail:mail")
    assert ensue(*asked)[:2] == (0, "nothing has changed: 1 in kept\n")
    change(here / "contracts_hotel.py", "nights: int", "nights: str")
    broken = ensue(*asked)
    assert broken.code == 1
    assert broken.out == (
        f"breaking    {NAME} nights: was integer, is string; mail cannot read new messages: string is written, and "
        "integer is read\n"
    )
    [told] = ensue(*asked, "--json").json["changes"]
    assert (told["name"], told["path"], told["breaking"]) == (NAME, "nights", True)
    assert told["reasons"][0]["reader"] == "mail"


def test_check_names_who_waits_for_the_only_event_of_a_topic(ensue: Run, here: Path) -> None:
    ensue("schemas", "export", "contracts_hotel:hotel")
    change(here / "contracts_hotel.py", "publishes=[Booked]", "publishes=[Left]")
    change(
        here / "contracts_hotel.py",
        "hotel = ",
        'class Left(Event, topic="left", key="room"):\n    room: str\n\nhotel = ',
    )
    broken = ensue("schemas", "check", "contracts_hotel:hotel", "--readers", "contracts_mail:mail")
    assert (broken.code, broken.out.splitlines()) == (
        1,
        [
            "compatible  left.Left.v1: new; no reader of it is known",
            f"breaking    {NAME}: not written any more by these services; mail: it waits for it in vain",
        ],
    )


def test_a_file_is_the_same_whether_its_services_are_exported_at_once_or_one_by_one(ensue: Run, here: Path) -> None:
    both = ("contracts_hotel:hotel", "contracts_mail:gate")
    ensue("schemas", "export", *both, "--to", "at-once")
    for each in both:
        ensue("schemas", "export", each, "--to", "one-by-one")
    data = (here / "at-once" / f"{NAME}.json").read_bytes()
    assert json.loads(data)["x-ensue"]["services"] == ["gate", "hotel"]
    assert (here / "one-by-one" / f"{NAME}.json").read_bytes() == data
    for each in both:
        assert ensue("schemas", "export", each, "--check", "--to", "at-once").code == 0
    (here / "at-once" / f"{NAME}.json").write_text("{")
    assert ensue("schemas", "export", *both, "--to", "at-once").code == 0, "a damaged file is written anew"
    assert (here / "at-once" / f"{NAME}.json").read_bytes() == data


def test_two_that_publish_one_event_differently_are_refused(ensue: Run, here: Path) -> None:
    both = ("contracts_hotel:hotel", "contracts_mail:gate")
    assert ensue("schemas", "export", *both).code == 0, "as long as they say the same"
    change(here / "contracts_mail.py", "nights: int", "nights: float")
    refused = ensue("schemas", "export", *both)
    assert refused.code == 1
    assert f"{NAME} is written by hotel as contracts_hotel:Booked, and by gate as contracts_mail:Booked" in refused.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("export", "contracts_hotel:quiet"), "quiet: nothing is declared that is published"),
        (("check", "contracts_hotel:hotel"), "there is no directory schemas: write the schemas with"),
        (
            ("check", "contracts_hotel:hotel", "--against", "damaged"),
            f"damaged/{NAME}.json is no schema that Ensue has",
        ),
        (("check", "contracts_hotel:hotel", "--against", "renamed"), f"other.json holds the schema of {NAME}"),
        (("export", "contracts_hotel:hotel", "--to", "a/b/c"), "a/b/c cannot be written: No such file or directory"),
        (("export", "contracts_hotel:nobody"), "nobody in "),
        (("export", "contracts_ended:any"), "contracts_ended:any: the process that loads it ended with status 3: gone"),
    ],
)
def test_what_cannot_be_done_is_said(ensue: Run, here: Path, arguments: tuple[str, ...], text: str) -> None:
    (here / "contracts_ended.py").write_text("import os\nos.write(2, b'gone')\nos._exit(3)\n")
    for directory in ("damaged", "renamed"):
        (here / directory).mkdir()
    (here / "damaged" / f"{NAME}.json").write_text('{"type": "obj')
    if "renamed" in arguments:
        ensue("schemas", "export", "contracts_hotel:hotel", "--to", "renamed")
        (here / "renamed" / f"{NAME}.json").rename(here / "renamed" / "other.json")
    ended = ensue("schemas", *arguments)
    assert (ended.code, ended.out) == (1, "")
    assert text in ended.err


def test_asyncapi_is_shown_or_written_one_for_each_service(ensue: Run, here: Path) -> None:
    shown = ensue("asyncapi", "contracts_hotel:hotel", "--service-version", "7.0.0")
    assert shown.json["info"] == {"title": "hotel", "version": "7.0.0"}
    headers = shown.json["components"]["messages"][NAME]["headers"]
    assert "ce_type" in headers["properties"], "as Kafka has them, which the service is set to"
    assert shown.err == ""
    change(here / "contracts_hotel.py", ", publishes=[Booked], broker", ", broker")
    assert "hotel does not declare what it publishes" in ensue("asyncapi", "contracts_hotel:hotel").err
    refused = ensue("asyncapi", "contracts_hotel:hotel", "contracts_mail:mail")
    assert (refused.code, "say where to, with --to DIRECTORY" in refused.err) == (1, True)
    assert ensue("asyncapi", "contracts_hotel:hotel", "contracts_mail:mail", "--to", "api").code == 0
    assert (
        json.loads((here / "api/mail.asyncapi.json").read_text())["operations"]["receive.rooms"]["action"] == "receive"
    )
