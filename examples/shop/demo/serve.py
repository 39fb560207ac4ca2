"""One process, until SIGTERM or until whoever started it is gone: a service's web application under uvicorn, or the
payment provider.

`python -m shop.demo.serve orders 8001`. Standard input is a pipe whose other end the supervisor holds: when the
supervisor dies, however it dies, the pipe ends and so does this process. (Portable; no signal has to arrive.)

With SHOP_DEMO_PROFILE=<directory> in the environment, each process that stops in order leaves a cProfile file there.
"""

from __future__ import annotations

import cProfile
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shop.demo.services import APPLICATIONS, PROVIDER, STOP_S


def follow_parent() -> None:
    """Wait until standard input ends, then stop this process: in an orderly way, else by force."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os._exit(1)


def main(service: str, port: int) -> None:
    # uvicorn raises the signal again when it has shut down: then an orderly end, not a death by signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=follow_parent, name="follow-parent", daemon=True).start()
    with profiled(service):
        if service == PROVIDER:
            provide(port)
        else:
            serve(service, port)


def serve(service: str, port: int) -> None:
    import uvicorn  # not in the provider, which starts the faster

    logging.getLogger("ensue").setLevel(logging.WARNING)  # as uvicorn's: the demo says by itself what runs
    uvicorn.run(
        APPLICATIONS[service],
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


def provide(port: int) -> None:
    from shop.provider.__main__ import run

    run(port, Path(os.environ["SHOP_PROVIDER_BOOK"]), int(os.environ["SHOP_PROVIDER_SEED"]))


@contextmanager
def profiled(service: str) -> Iterator[None]:
    directory = os.environ.get("SHOP_DEMO_PROFILE")
    if not directory:
        yield
        return
    profile = cProfile.Profile(time.process_time)  # of processor time: most of the rest is waiting
    try:
        with profile:
            yield
    finally:
        profile.dump_stats(f"{directory}/{service}.{os.getpid()}.prof")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
