"""Services for the tests of this directory, and the scripts of docs/how-to/other-applications.md as processes."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import MetaData, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Event, Service, Step

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "other-applications.md"
#: A generous limit of what should take seconds: consumer groups of others take their time to form.
PATIENCE_S = 60.0


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    total: str


class PaymentReceived(Event, topic="payments", key="order_id"):
    order_id: str
    amount: str


class Base(DeclarativeBase):
    metadata = MetaData()


class Payment(Base):
    __tablename__ = "payments"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    order_id: Mapped[str] = mapped_column(String(60))


def make_service(directory: Path, broker: str) -> Service:
    """Publishes orders and keeps each payment that it handles as a row."""
    service = Service(
        "shop", publishes=[OrderPlaced], tables=Base.metadata, database=f"sqlite:///{directory}/shop.db", broker=broker
    )

    @service.on
    async def keep(event: PaymentReceived, step: Step) -> None:
        step.session.add(Payment(order_id=event.order_id))

    return service


async def place_orders(service: Service, *order_ids: str) -> None:
    for order_id in order_ids:
        async with service.step() as step:
            step.publish(OrderPlaced(order_id=order_id, total="12.50"))


async def payments(service: Service) -> dict[str, int]:
    """How often each order was paid."""
    async with service.runtime.store.reading() as session:
        rows = await session.execute(select(Payment.order_id, func.count()).group_by(Payment.order_id))
        return {str(order_id): int(count) for order_id, count in rows}


async def settled(service: Service, order_id: str, count: int) -> dict[str, int]:
    """All payments, once this order has at least that many."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := await payments(service)).get(order_id, 0) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


async def wait_for_payment(service: Service, order_id: str) -> dict[str, int]:
    return await settled(service, order_id, 1)


def script(name: str, directory: Path) -> Path:
    """The script of that name as the page has it, in a file."""
    [source] = re.findall(rf'^```py title="{re.escape(name)}"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path = directory / name
    path.write_text(source)
    return path


@asynccontextmanager
async def running(name: str, directory: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A script of the page, run until the end of the block."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script(name, directory)), *arguments,
        stdout=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def printed_event(process: asyncio.subprocess.Process) -> str:
    """The next event that the script printed; FastStream writes its log between them."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        async for line in process.stdout:
            if line.startswith(b"orders."):
                return line.decode().strip()
    raise AssertionError("the script ended without an event")


async def run_script(name: str, directory: Path, *arguments: str) -> None:
    """Run a script of the page to its end."""
    async with running(name, directory, *arguments) as process, asyncio.timeout(PATIENCE_S):
        assert await process.wait() == 0
