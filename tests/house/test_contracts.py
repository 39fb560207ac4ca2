"""The shop's committed schemas are what its code says, and every reader in it reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensue.cli.main import main

SCHEMAS = Path(__file__).parents[2] / "examples/shop/schemas"
SERVICES = [f"shop.{name}:{name}" for name in ("orders", "customers", "payments", "order_history")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["export", "--check", "--to"], "are as the code says"), (["check", "--against"], "nothing has changed")],
    ids=["export --check", "check"],
)
def test_the_shop_keeps_its_contracts(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOP_PLACEMENT", "orchestration")  # which has all that a choreography has, and commands
    with pytest.raises(SystemExit) as ended:
        main(["schemas", *arguments, str(SCHEMAS), *SERVICES])
    out, err = capsys.readouterr()
    assert (ended.value.code or 0, said in out) == (0, True), (
        f"{out}{err}\nwrite them with SHOP_PLACEMENT=orchestration ensue schemas export ... --to {SCHEMAS.name}"
    )
