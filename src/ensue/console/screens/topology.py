"""Topology and catalogue: who publishes what to whom, and the schema of each message. From the declarations alone."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from ensue.addresses import scheme_of
from ensue.console.drawing import topology_drawing
from ensue.console.visit import Visit
from ensue.contracts.asyncapi import asyncapi
from ensue.contracts.contract import contract_of
from ensue.operations import contracts
from ensue.operations.topology import find_flows, find_sagas, find_warnings, no_publisher


async def topology(visit: Visit) -> Response:
    services = visit.services.all
    flows = find_flows(services)
    schemas, versions = {}, {}
    for service in services:
        contract = contract_of(service)
        for each in (*contract.reads, *contract.writes):
            schemas[each.name], versions[each.name] = each.schema, each.version
    # In one process a type has one class, so writers and readers here agree: only what was committed, which is what the
    # log holds and others read by, tells of a change.
    committed = visit.console.committed
    return visit.page(
        "topology",
        report=None if committed is None else contracts.report(services, committed),
        drawing=topology_drawing([each.name for each in services], flows),
        versions=versions,
        messages=[(each, schemas.get(each.type)) for each in flows],
        sagas=find_sagas(services),
        warnings=find_warnings(services, flows),
        unknown=no_publisher(services),
        names=visit.services.names,
    )


async def asyncapi_document(visit: Visit) -> Response:
    service = visit.services.service(visit.asked("service"))
    name = "".join(each if each.isascii() and each.isalnum() else "-" for each in service.name)
    headers = {"Content-Disposition": f'attachment; filename="{name}.asyncapi.json"'} if visit.asked("file", "") else {}
    return JSONResponse(asyncapi(contract_of(service), scheme=scheme_of(service.settings().broker)), headers=headers)
