"""What a subscriber does about its gaps: it asks the source to send again, and says in the log how it stands."""

from __future__ import annotations

from ensue.engine.ask import ask_again
from ensue.engine.context import Context
from ensue.message import Checkpoint, Gap, GapState, Partition
from ensue.plan import STRANGERS_MAX, Plan
from ensue.texts import logger

log = logger("ensue.consumer")


class GapWatch:
    """The gaps of one partition, as this worker has asked for them and logged them."""

    def __init__(self, partition: Partition, context: Context) -> None:
        self._partition = partition
        self._context = context
        # source -> watermark asked from, last position that it was known to need, when (monotonic), pause after that
        self._asked: dict[str, tuple[int, int, float, float]] = {}
        self._logged: dict[str, tuple[GapState, int, int]] = {}  # what was last logged of each gap

    def forget(self) -> None:
        """The checkpoint was loaded anew: ask at once for what is open."""
        self._asked.clear()

    async def ask(self, checkpoint: Checkpoint, at_the_end: bool) -> None:
        """Ask each source with a hole to send again from the watermark, until the chain closes.

        at_the_end: of the log. Before it the answer to an earlier question may lie, which is then not asked again.
        """
        context = self._context
        now = context.clock.monotonic()
        first_s = context.config.resend_interval_s
        for source, gap in checkpoint.gaps.items():
            watermark, needed, when, pause_s = self._asked.get(source, (-1, 0, 0.0, 0.0))
            if 0 <= watermark < gap.watermark:
                # The answer is coming in. Asking anew with each batch of it would have it sent as often as it is long.
                self._asked[source] = (gap.watermark, gap.needed, now, first_s)
                continue
            if needed < gap.needed:
                pause_s = min(pause_s, first_s)  # it lives: it has sent something
            if watermark == gap.watermark and (not at_the_end or now - when < pause_s):
                continue
            if gap.state is GapState.LOST and watermark >= 0:
                continue  # the outbox has answered that it is gone; an operator decides
            # Ever more seldom: a source that does not answer is down, or somebody has invented it.
            longest_s = max(context.config.tick_max_s, first_s)
            following_s = min(2 * pause_s, longest_s) if watermark == gap.watermark else first_s
            self._asked[source] = (gap.watermark, gap.needed, now, following_s)
            # The id is of the checkpoint's watermark; of another position's message it would be a false witness.
            known = checkpoint.ids.get(source, "") if checkpoint.watermarks.get(source) == gap.watermark else ""
            await ask_again(context, self._partition, gap, known)
            context.faults.point("consumer.asked")

    async def ask_all(self, checkpoint: Checkpoint) -> None:
        """The log has lost its end: ask every source for what follows the last that was applied of it.

        Nothing else would tell of a lost record of a source that is silent before its next tick, a minute perhaps.
        """
        context = self._context
        for source, watermark in checkpoint.watermarks.items():
            if source not in checkpoint.gaps:  # a gap is asked for anyway
                gap = Gap(source, watermark, watermark, context.clock.now())
                await ask_again(context, self._partition, gap, checkpoint.ids.get(source, ""))

    def log_changes(self, todo: Plan) -> None:
        """Log what changed. A gap changes with every record held back: said when it opens, is lost, or closes."""
        for source, gap in todo.gaps.items():
            if gap is None:
                if source in todo.dropped:
                    log.warning(
                        "%s: more than %d sources that are not known here have a gap: %s, of which nothing was ever "
                        "applied, is not asked any more until it sends something. Does somebody invent them?",
                        self._partition, STRANGERS_MAX, source,
                    )  # fmt: skip
                else:
                    log.warning("%s: the gap in %s is closed", self._partition, source)
                self._logged.pop(source, None)
                self._asked.pop(source, None)
                continue
            # While it closes, its watermark moves with each batch of the answer: no news.
            news = (gap.state, gap.watermark if gap.state is GapState.LOST else 0, gap.lost_through)
            if self._logged.get(source) != news:
                self._logged[source] = news
                self._log(source, gap)
        for source, position in todo.lost.items():
            log.warning(
                "%s: history of %s up to position %d is gone from log and outbox (retention); begun after it",
                self._partition, source, position,
            )  # fmt: skip

    def _log(self, source: str, gap: Gap) -> None:
        partition = self._partition
        if gap.state is GapState.LOST:
            log.error(
                "%s: positions %d to %d of %s are gone from log and outbox; nothing after them is applied. "
                "To go on without them: ensue gaps accept MODULE:%s",
                partition, gap.watermark + 1, gap.lost_through, source, partition.subscription,
            )  # fmt: skip
        else:
            log.warning(
                "%s: a gap in %s after position %d: what follows it there is held back, and asked for again. "
                "The last position known to exist is %d",
                partition, source, gap.watermark, gap.needed,
            )  # fmt: skip
