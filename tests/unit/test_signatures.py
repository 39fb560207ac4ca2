"""Keys and whom they make believed: from the environment, from a file, and what is refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensue.config import load_settings
from ensue.errors import UsageError
from ensue.signatures import Key, Trust

SECRET = "p4ssw0rd-p4ssw0rd-p4ssw0rd-p4ssw0rd"


def test_keys_come_from_a_variable_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of July\n\norders/2:{SECRET}2\n  customers/1:{SECRET}\n")
    environment = {"ENSUE_TRUST": "signed", "ENSUE_KEYS": f"orders/3:{SECRET}3", "ENSUE_KEYS_FILE": str(file)}
    environment |= {"ENSUE_UNSIGNED_TOPICS": "legacy, mail", "ENSUE_UNSIGNED_SOURCES": "https://old.example/a"}
    trust = load_settings("orders", environment=environment).trust
    assert trust.signed
    assert [(each.service, each.id, each.secret) for each in trust.keys] == [
        ("orders", "3", f"{SECRET}3"), ("orders", "2", f"{SECRET}2"), ("customers", "1", SECRET),
    ]  # fmt: skip
    assert trust.unsigned_topics == {"legacy", "mail"}
    assert trust.unsigned_sources == {"https://old.example/a"}
    sign = trust.signer("orders")
    assert sign is not None
    assert sign(b"x").startswith("3.")
    assert trust.signer("payments") is None


def test_without_settings_nothing_is_signed_and_nothing_is_asked_for() -> None:
    trust = load_settings("orders", environment={}).trust
    assert trust == Trust()
    assert trust.signer("orders") is None


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"ENSUE_TRUST": "sgined"}, "ENSUE_TRUST is 'sgined', expected any or signed"),
        ({"ENSUE_KEYS": "orders/1:short"}, "key orders/1 has a secret of 5 characters, expected at least 32"),
        ({"ENSUE_KEYS": f"orders:{SECRET}"}, "ENSUE_KEYS: key 1 is not written as <service>/<key id>:<secret>"),
        ({"ENSUE_KEYS": f"orders/1:{SECRET} orders/1:{SECRET}x"}, "there are two keys orders/1"),
        ({"ENSUE_KEYS_FILE": "/no/such/file"}, "ENSUE_KEYS_FILE is /no/such/file, which cannot be read"),
        ({"ENSUE_UNSIGNED_TOPICS": "ensue.control"}, "unsigned_topics names ensue.control"),
        (
            {"ENSUE_KEYS": f"orders/1:{SECRET}", "ENSUE_UNSIGNED_SOURCES": "orders/4f"},
            "unsigned_sources names orders/4f, of which there is a key",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_and_no_secret_is_told(environment: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_settings("orders", environment=environment)
    assert text in str(refused.value)
    assert SECRET not in str(refused.value)


def test_no_repr_tells_a_secret() -> None:
    settings = load_settings("orders", environment={"ENSUE_KEYS": f"orders/1:{SECRET}"})
    assert SECRET not in f"{settings!r} {settings.trust!r} {settings.trust.keys!r} {Key('a', 'b', SECRET)}"
