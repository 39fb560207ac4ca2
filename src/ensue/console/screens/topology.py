"""Topology and catalogue: who publishes what to whom, and the schema of each message. From the declarations alone."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from ensue.addresses import scheme_of
from ensue.console.drawing import topology_drawing
from ensue.console.visit import Visit
from ensue.contracts.asyncapi import asyncapi
from ensue.contracts.contract import contract_of
from ensue.operations.topology import find_flows, find_sagas, find_warnings


async def topology(visit: Visit) -> Response:
    services = visit.services.all
    flows = find_flows(services)
    schemas = {}
    for service in services:
        contract = contract_of(service)
        schemas.update({each.name: each.schema for each in (*contract.reads, *contract.writes)})
    return visit.page(
        "topology",
        drawing=topology_drawing([each.name for each in services], flows),
        messages=[(each, schemas.get(each.type)) for each in flows],
        sagas=find_sagas(services),
        warnings=find_warnings(services, flows),
        names=visit.services.names,
    )


async def asyncapi_document(visit: Visit) -> Response:
    service = visit.services.service(visit.asked("service"))
    return JSONResponse(asyncapi(contract_of(service), scheme=scheme_of(service.settings().broker)))
