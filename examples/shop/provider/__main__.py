"""The command: `python -m shop.provider --port 8090 --book provider.db`. GET /book shows what it has done."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from shop.provider.book import Book
from shop.provider.server import TROUBLE, Provider


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shop.provider", description="A payment provider to try out.")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--book", type=Path, default=Path("provider.db"), help="an SQLite file")
    parser.add_argument("--seed", type=int, default=1, help="of when it is away, silent or late")
    parser.add_argument("--calm", action="store_true", help="none of that")
    given = parser.parse_args()
    run(given.port, given.book, given.seed, calm=given.calm)


def run(port: int, book: Path, seed: int, *, calm: bool = False) -> None:
    """Until a signal ends the process."""
    with Provider(port, Book(book), Random(seed), {} if calm else TROUBLE) as provider:
        print(f"The provider is at {provider.url}", flush=True)
        provider.serve_forever()


if __name__ == "__main__":
    main()
