"""Settings that hold secrets come from files too, and nothing of such a file is in an error."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from ensue.config import explain_settings, load_settings
from ensue.errors import UsageError
from ensue.variables import Source

URL = "postgresql://shop:Rec0gnizable@db/orders"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "  \n"])
def test_a_url_comes_from_the_file_that_the_variable_names(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "url"
    mark = b"\xef\xbb\xbf" if ending == "\r\n" else b""  # as an editor writes it that ends lines like that
    file.write_bytes(mark + f"{URL}{ending}".encode())
    environment = {"ENSUE_ORDER_HISTORY_DATABASE_FILE": str(file), "ENSUE_BROKER_FILE": str(file)}
    settings = load_settings("order-history", environment=environment)
    assert settings.database == settings.broker == URL


@pytest.mark.parametrize("variable", ["ENSUE_ORDERS_DATABASE", "ENSUE_BROKER"])
def test_what_is_no_url_may_be_a_password_and_is_not_shown(variable: str) -> None:
    with pytest.raises(UsageError, match=f"^{variable} is no URL") as refused:
        load_settings("orders", environment={variable: "Rec0gnizable"})
    assert "Rec0gnizable" not in str(refused.value)
    with pytest.raises(UsageError, match=r"^database= is no URL"):
        load_settings("orders", database="orders.db", environment={})


def test_an_argument_in_code_comes_before_a_file() -> None:
    environment = {"ENSUE_BROKER_FILE": "/no/such/file"}
    settings, sources = explain_settings("orders", broker="memory:", environment=environment)
    assert settings.broker == "memory:"
    assert sources["broker"] == Source("argument", "ENSUE_BROKER")


@pytest.mark.parametrize("variable", ["ENSUE_ORDERS_DATABASE", "ENSUE_BROKER"])
def test_a_variable_and_a_file_for_one_setting_are_refused(variable: str) -> None:
    environment = {variable: URL, f"{variable}_FILE": "/run/secrets/url"}
    with pytest.raises(UsageError, match=f"^{variable} and {variable}_FILE are both set: leave one of them out$"):
        load_settings("orders", environment=environment)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "which cannot be read: No such file or directory"),
        (b"", "which has nothing in it, expected one line: the value of ENSUE_BROKER"),
        (b"\n", "which has nothing in it"),
        (f"{URL}\n{URL}\n".encode(), "which has several lines, expected one line"),
        (f"{URL}\xff".encode("latin-1"), "which is no text in UTF-8"),
        (URL.encode() * 30_000, "which has more than 1,000,000 bytes"),
        (b"Rec0gnizable", "whose text is no URL, expected one with a scheme"),
    ],
    ids=["none", "empty", "blank", "lines", "bytes", "huge", "password"],
)
def test_a_file_that_does_not_serve_is_named_and_not_quoted(tmp_path: Path, data: bytes | None, says: str) -> None:
    file = tmp_path / "url"
    if data is not None:
        file.write_bytes(data)
    for variable in ("ENSUE_BROKER_FILE", "ENSUE_KEYS_FILE"):
        if variable == "ENSUE_KEYS_FILE" and (not data or b"\n" in data or b":" not in data):
            continue  # a file of keys may have no lines, and several, and has no URL
        with pytest.raises(UsageError) as refused:
            load_settings("orders", environment={variable: str(file)})
        assert f"{variable} is {file}, {says}" in str(refused.value)
        each: BaseException | None = refused.value
        while each is not None:
            shown = "".join(traceback.format_exception(each)) + repr(each.args) + repr(getattr(each, "object", ""))
            assert "Rec0gnizable" not in shown
            each = each.__cause__ or each.__context__


def test_every_setting_knows_where_it_came_from(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"orders/1:{'o' * 40}\n")
    environment = {
        "ENSUE_HOME": "/data", "ENSUE_ORDERS_DATABASE": URL, "ENSUE_LEASE_TTL_S": "5", "ENSUE_TRUST": "signed",
        "ENSUE_KEYS": f"customers/1:{'c' * 40}", "ENSUE_KEYS_FILE": str(keys),
    }  # fmt: skip
    settings, sources = explain_settings("orders", partitions=4, environment=environment)
    assert {name: source.kind for name, source in sources.items() if source.kind != "default"} == {
        "home": "environment", "database": "environment", "partitions": "argument", "engine.lease_ttl_s": "environment",
        "trust.signed": "environment", "trust.keys": "file",
    }  # fmt: skip
    assert sources["broker"] == Source("default", "ENSUE_BROKER")
    assert sources["trust.keys"] == Source("file", "ENSUE_KEYS and ENSUE_KEYS_FILE", str(keys))
    assert sources["engine.retry"] == Source("default")
    code = explain_settings("orders", engine=settings.engine, trust=settings.trust, environment=environment)[1]
    assert {code[name].kind for name in code if name.startswith(("engine.", "trust."))} == {"argument"}
