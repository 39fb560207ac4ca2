"""The supervisor waits for a service as long as it says, however long the service takes for one answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from aiohttp import web

from shop.demo.supervisor import ServiceProcess, free_ports


async def test_an_answer_that_takes_too_long_is_not_the_end_of_waiting_for_a_service(tmp_path: Path) -> None:
    asked = 0
    over = asyncio.Event()

    async def healthz(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            await over.wait()
        return web.Response()

    [port] = free_ports(1)
    app = web.Application()
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        service = ServiceProcess("orders", port, tmp_path, {})
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as client:
            await service.wait_ready(client, limit_s=60)
        assert asked == 2
    finally:
        over.set()
        await runner.cleanup()
