"""Two services in processes of their own: boards, on which clients pin numbers, and a wall that shows the last ones.

`python -m tests.tokens.wall boards|wall|window FD`: serves HTTP on an open socket. A window is a process of the wall's
that works on nothing. Settings come from the environment.
"""

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI
from sqlalchemy import Column, Integer, MetaData, String, Table

from ensue import EngineConfig, Event, Retry, Rows, Service, Step, TableRepository
from ensue.integrations.fastapi import install, step_of

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0

Child = subprocess.Popen[bytes]


class NumberPinned(Event, topic="wall-pins", key="board"):
    board: str
    number: int


@dataclasses.dataclass
class Board:
    board: str
    number: int


METADATA = MetaData()
BOARDS = Table("wall_boards", METADATA, Column("board", String(60), primary_key=True), Column("number", Integer))


def make_boards() -> FastAPI:
    boards = Service("boards", publishes=[NumberPinned])
    app = FastAPI()
    install(app, boards, tokens=True)

    @app.put("/boards/{board}")
    async def pin(board: str, number: int, step: Annotated[Step, step_of(boards)]) -> int:
        step.publish(NumberPinned(board=board, number=number))
        return number

    return app


def make_wall(*, work: bool, wait_s: float) -> FastAPI:
    engine = EngineConfig(retry=Retry(attempts_max=1), poll_interval_s=0.5, lease_ttl_s=1.0)
    wall = Service("wall", tables=METADATA, repositories=[TableRepository(Board, BOARDS)], engine=engine)
    app = FastAPI()
    install(app, wall, work=work, tokens=wait_s)

    @wall.on
    def show(board: Board | None, event: NumberPinned) -> Board:
        if event.number < 0:
            raise ValueError("there is no such number")
        return Board(event.board, event.number)

    @app.get("/boards/{board}")
    async def read(board: str, rows: Annotated[Rows, Depends(wall.rows, scope="function")]) -> int:
        found = await rows.get(Board, board)
        return 0 if found is None else found.number

    return app


def main(name: str, fd: int) -> None:
    wait_s = float(os.environ["WALL_WAIT_S"])
    app = make_boards() if name == "boards" else make_wall(work=name == "wall", wait_s=wait_s)
    # Connections stay for as long as a slow machine may need, or one is closed while a client takes it up again.
    config = uvicorn.Config(app, fd=fd, log_level="warning", lifespan="on", timeout_keep_alive=300)
    asyncio.run(uvicorn.Server(config).serve())


@contextmanager
def process(
    name: str, settings: Mapping[str, str], *, wait_s: float = WAIT_S
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Give the URL of such a process, and it. Whoever asks before it is there waits in the socket's queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        fd = listening.fileno()
        found = {key: value for key, value in os.environ.items() if not key.startswith("ENSUE_")}
        found |= {**settings, "WALL_WAIT_S": str(wait_s), "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.tokens.wall", name, str(fd)], cwd=ROOT, env=found, pass_fds=(fd,)
        )
        port = listening.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", child
    finally:
        child.send_signal(signal.SIGCONT)
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
