"""`/asyncapi.json`: what a service sends and receives, as AsyncAPI has it."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from ensue.app import Service
from ensue.integrations.described import described


def asyncapi_route(service: Service, version: str = "0.1.0", *, path: str = "/asyncapi.json") -> APIRouter:
    """Return a router with the AsyncAPI document of a service; `install(app, orders, asyncapi=True)` adds it to an app.

    version: of the service, for the document. It is made once, when it is first asked for: from what is declared then.
    Whoever may ask the app may read it: it has names and types, no addresses.
    """
    router = APIRouter(tags=["asyncapi"])
    document = described(service, version)

    @router.get(path, response_class=JSONResponse)
    async def shown() -> JSONResponse:
        return JSONResponse(document())

    return router
