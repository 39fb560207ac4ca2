"""If-Match over HTTP: who has seen another version is answered with a 412 problem document."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Header, Response
from tests.unit.aggregate.accounts import Account, AccountOpened, make_accounts

import ensue.testing
from ensue import Service, Step
from ensue.integrations.fastapi import install, step_of


def make_app(accounts: Service) -> FastAPI:
    app = FastAPI()
    install(app, accounts)
    accounts_step = Annotated[Step, step_of(accounts)]

    async def create(name: str, step: accounts_step) -> dict[str, int]:
        account = Account(name)
        step.record(account, AccountOpened(account_id=name, owner="Ada"))
        return {"version": account.version}

    async def pay(
        name: str,
        amount: int,
        step: accounts_step,
        response: Response,
        if_match: Annotated[str | None, Header()] = None,
    ) -> dict[str, int]:
        account = await step.load(Account, name, expected=if_match or "*")
        step.record(account, account.pay(amount))
        response.headers["ETag"] = f'"{account.version}"'
        return {"balance": account.balance}

    app.post("/accounts/{name}", status_code=201)(resolved(create, accounts_step))
    app.post("/accounts/{name}/payments")(resolved(pay, accounts_step))
    return app


def resolved(function: Any, step: Any) -> Any:
    """With annotations that name what is known here alone."""
    function.__annotations__["step"] = step
    return function


async def test_a_client_that_has_seen_another_version_is_told() -> None:
    accounts = make_accounts()
    app = make_app(accounts)
    async with ensue.testing.run(accounts):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://accounts") as client:
            assert (await client.post("/accounts/a")).status_code == 201
            again = await client.post("/accounts/a")
            assert (again.status_code, again.json()["type"]) == (409, "urn:ensue:problem:aggregate-exists")

            paid = await client.post("/accounts/a/payments?amount=5", headers={"If-Match": '"1"'})
            assert (paid.status_code, paid.json(), paid.headers["ETag"]) == (200, {"balance": 5}, '"2"')
            late = await client.post("/accounts/a/payments?amount=5", headers={"If-Match": '"1"'})
            assert late.status_code == 412
            assert late.headers["content-type"] == "application/problem+json"
            assert late.headers["ETag"] == '"2"'
            document = late.json()
            assert (document["type"], document["version"]) == ("urn:ensue:problem:precondition-failed", 2)
            missing = await client.post("/accounts/b/payments?amount=5", headers={"If-Match": '"1"'})
            assert (missing.status_code, missing.json()["detail"]) == (412, "It does not exist")
            assert len(await accounts.history(Account, "a")) == 2
