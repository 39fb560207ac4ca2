"""A view's row, in the place that has no version."""

from __future__ import annotations

import msgspec

from ensue.deciding import Deciding
from ensue.engine.books.base import encode
from ensue.engine.books.decisions import Decisions
from ensue.errors import RowConflict
from ensue.ports import Row, StepTransaction
from ensue.tables import VIEWS
from ensue.views.states import Accepted, Rule, State, ViewRow

_read_accepted = msgspec.json.Decoder(tuple[Accepted, ...]).decode


class ViewBook(Decisions):
    """subscription: the view's name, without a version."""

    _deciding: tuple[Deciding, str] | None = None

    def decided(self, by: Deciding, action: str) -> ViewBook:
        """The same book, whose changes are a person's decision, and are written down as that."""
        book = ViewBook(self._store, self.subscription, self._random, self.schema)
        book._deciding = (by, action)
        return book

    async def prepare(self) -> None:
        """Make the table, where it is missing."""
        await self._store.make_own([VIEWS])

    async def row(self) -> ViewRow:
        """Return the view's row, a new one (revision 0) when there is none."""
        rows = await self._store.rows().get(VIEWS, [self.subscription])
        return _row(rows[0]) if rows else ViewRow(self.subscription)

    async def change(self, rule: Rule) -> ViewRow:
        """Have a rule decide on the row as it is, and store what it makes of it; again when somebody else was quicker.

        Raises what the rule does; then nothing is stored.
        """
        while True:
            try:
                async with self._store.transaction(upkeep=True) as transaction:
                    rows = await transaction.load_rows(VIEWS, [self.subscription])
                    found = _row(rows[0]) if rows else ViewRow(self.subscription)
                    following = rule(found, transaction.now)
                    if following == found:
                        # What is done besides, to a place that no version has, say, is a decision all the same.
                        await self._note(transaction, found, found)
                        return found
                    following = msgspec.structs.replace(following, revision=self._next(found.revision))
                    if rows:
                        await transaction.update_rows(VIEWS, [_stored(following)], expect=[found.revision])
                    else:
                        await transaction.insert_rows(VIEWS, [_stored(following)])
                    await self._note(transaction, found, following)
                return following
            except RowConflict:
                continue

    async def _note(self, transaction: StepTransaction, before: ViewRow, after: ViewRow) -> None:
        if self._deciding is not None:
            by, action = self._deciding
            await self.record(transaction, by, action, self.subscription, before, after)


def _row(row: Row) -> ViewRow:
    name, active, previous, building, state, rate, started_at, swapped_at, by, accepted, revision = row
    return ViewRow(
        name, active, previous, building, State(state), rate, started_at, swapped_at, by, _read_accepted(accepted),
        revision,
    )  # fmt: skip


def _stored(row: ViewRow) -> Row:
    return (
        row.name, row.active, row.previous, row.building, row.state.value, row.rate, row.started_at, row.swapped_at,
        row.by, encode(row.accepted).decode(), row.revision,
    )  # fmt: skip
