"""The input: one year of a real shop's invoices and credit notes, shipped with the example (see data/README.md)."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import importlib.resources
import io
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

FILE = "online_retail_invoices.csv.gz"
ATTRIBUTION = (
    '"Online Retail" by Daqing Chen, UCI Machine Learning Repository (2015), DOI 10.24432/C5BW33, licence CC BY 4.0'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Invoice:
    """One row. number: begins with C for a credit note. at: the shop's local time. total: pounds, pence-exact."""

    number: str
    customer: str
    at: datetime
    country: str
    total: Decimal

    @property
    def is_credit_note(self) -> bool:
        return self.number.startswith("C")


def invoices() -> list[Invoice]:
    """Return all invoices and credit notes, oldest first; those of one minute in the order of the file."""
    packed = (importlib.resources.files("shop") / "data" / FILE).read_bytes()
    return sorted(_rows(gzip.decompress(packed).decode()), key=lambda invoice: invoice.at)


def _rows(text: str) -> Iterator[Invoice]:
    for row in csv.DictReader(io.StringIO(text)):
        yield Invoice(
            number=row["invoice"],
            customer=row["customer"],
            at=datetime.fromisoformat(row["at"]),
            country=row["country"],
            total=Decimal(row["total_gbp"]),
        )
