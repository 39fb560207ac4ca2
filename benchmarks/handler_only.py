"""What belongs to the handler alone: its statements and the commit, in batches, with no message system around it.

SELECT the accounts of the batch, change them, make the events that would be published, UPDATE, COMMIT with FULL. The
events are there already, decoded. What Ensue takes beyond this is "time inside Ensue".
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bare_files import BareFiles
from benchmarks.bare_loop import UPDATE_ACCOUNT
from benchmarks.workload import Account, TransferMade, balance_changed


def handle_all(open_files: BareFiles, events: Sequence[TransferMade], batch_records: int) -> None:
    service = open_files.service
    for start in range(0, len(events), batch_records):
        batch = events[start : start + batch_records]
        service.execute("BEGIN IMMEDIATE")
        ids = list({event.account_id: None for event in batch})
        marks = ",".join("?" * len(ids))
        select = f"SELECT id, owner, balance, changes FROM accounts WHERE id IN ({marks})"
        accounts = {row[0]: Account(*row) for row in service.execute(select, ids)}
        for event in batch:
            account = accounts[event.account_id]
            account.add(event.amount)
            balance_changed(account, event)
        service.executemany(
            UPDATE_ACCOUNT, [(each.owner, each.balance, each.changes, each.id) for each in accounts.values()]
        )
        service.execute("COMMIT")
