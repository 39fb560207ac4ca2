"""One service process: its web application under uvicorn, until SIGTERM or until whoever started it is gone.

`python -m shop.demo.serve orders 8001`. Standard input is a pipe whose other end the supervisor holds: when the
supervisor dies, however it dies, the pipe ends and so does this process. (Portable; no signal has to arrive.)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from shop.demo.services import APPLICATIONS, STOP_S


def follow_parent() -> None:
    """Wait until standard input ends, then stop this process: in an orderly way, else by force."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os._exit(1)


def main(service: str, port: int) -> None:
    threading.Thread(target=follow_parent, name="follow-parent", daemon=True).start()
    import uvicorn

    uvicorn.run(
        APPLICATIONS[service],
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
