"""What a metric is, those that the loops measure themselves as they go, and where a process keeps them.

All others are read from store and broker when somebody asks: see `engine.gauges`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ensue.engine.clock import seconds_of
from ensue.message import Message


class Alert(NamedTuple):
    """When somebody has to look. when: of the value, `> 0`; `rate > 0`: of its growth in ten minutes, whichever process
    tells it. of: the labels that it is about, as Prometheus writes them. over: of the values of several processes,
    "max" or "min". lasting: how long before it counts. page: somebody has to get up.

    without: counts where a process of a service tells this metric and none of its processes tells that one, which is
    named here; when says it in words. title: of the alert; empty: the metric's name.
    do: what is to be looked at, or done.
    """

    when: str
    do: str
    of: str = ""
    over: str = "max"
    lasting: str = "5m"
    page: bool = False
    without: str = ""
    title: str = ""


class Metric(NamedTuple):
    """unit: of the value. labels: by what it is split. counter: it only grows (else it is a gauge). buckets: it is a
    histogram, with these upper bounds. database: it says the same of all processes of a service, so one tells it."""

    name: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    counter: bool = False
    buckets: tuple[float, ...] = ()
    database: bool = False
    alert: Alert | None = None


#: As OpenTelemetry's conventions for messaging advise.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
#: So many types of errors have a series of their own in one process, the first that came. Others count as `_OTHER`,
#: as OpenTelemetry calls it: classes that are made at run time would make a series each, for as long as it lives.
ERROR_TYPES_MAX = 50
OTHER = "_OTHER"
_TYPE_CHARS_MAX = 100
#: What waits for a broker that is down, or for an operator, takes longer.
LONG_SECONDS = (*SECONDS, 30.0, 60.0, 300.0, 1800.0, 3600.0)

SEND_DURATION = Metric(
    "messaging_client_operation_duration_seconds",
    "seconds",
    "How long an append of the relay took; error_type is empty when the broker took it",
    ("messaging_system", "messaging_operation_name", "error_type"),
    buckets=SECONDS,
)
PROCESS_DURATION = Metric(
    "messaging_process_duration_seconds",
    "seconds",
    "How long a batch of a partition took, from its turn to its commit; error_type is empty when it took effect",
    ("messaging_system", "messaging_operation_name", "messaging_destination_name", "error_type"),
    buckets=SECONDS,
)
DELIVERY_DURATION = Metric(
    "ensue_delivery_duration_seconds",
    "seconds",
    "From a message's step, by its sender's clock, to its effect, by this process's; not of what is read again for a "
    "type that was not handled before",
    ("topic",),
    buckets=LONG_SECONDS,
)
STEP_DURATION = Metric(
    "ensue_step_duration_seconds",
    "seconds",
    "How long a step was open that began outside: a request's, a script's",
    buckets=SECONDS,
)
STEP_ROLLBACKS = Metric(
    "ensue_step_rollbacks",
    "steps",
    "Steps from outside that were rolled back, by the error's type; `Refused`: the answer was one of 5xx",
    ("error_type",),
    counter=True,
)
MEASURED = (SEND_DURATION, PROCESS_DURATION, DELIVERY_DURATION, STEP_DURATION, STEP_ROLLBACKS)


class Histogram:
    """How many values were at most each bound: counts has one more, for those beyond the last."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """So many were of this value.

        >>> one = Histogram((0.1, 1.0))
        >>> for value in (0.05, 0.1, 0.5, 7.0): one.observe(value)
        >>> one.counts, one.cumulated
        ([2, 1, 1], [2, 3, 4])
        """
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    @property
    def cumulated(self) -> list[int]:
        """As Prometheus wants them: at most the first bound, the second, and so on, and all."""
        total, found = 0, []
        for count in self.counts:
            total += count
            found.append(total)
        return found


class Measured:
    """What this process has measured since it began, by metric and label values. For the event loop alone."""

    def __init__(self, system: str = "ensue") -> None:
        self.system = system
        self.histograms: dict[Metric, dict[tuple[str, ...], Histogram]] = {}
        self.counts: dict[Metric, dict[tuple[str, ...], float]] = {}
        self._error_types: set[str] = set()

    def of(self, metric: Metric, *labels: str) -> Histogram:
        by_labels = self.histograms.setdefault(metric, {})
        found = by_labels.get(labels)
        if found is None:
            found = by_labels[labels] = Histogram(metric.buckets)
        return found

    def count(self, metric: Metric, *labels: str) -> None:
        by_labels = self.counts.setdefault(metric, {})
        by_labels[labels] = by_labels.get(labels, 0) + 1

    def sent(self, seconds: float, error: BaseException | None) -> None:
        self.of(SEND_DURATION, self.system, "send", self._type_of(error)).observe(seconds)

    def processed(self, topic: str, seconds: float, error: BaseException | None = None) -> None:
        self.of(PROCESS_DURATION, self.system, "process", topic, self._type_of(error)).observe(seconds)

    def delivered(self, topic: str, messages: Iterable[Message], now: float) -> None:
        """These messages of a topic have just taken effect. now: seconds since the epoch."""
        histogram = self.of(DELIVERY_DURATION, topic)
        for stamp, count in Counter([each.envelope.time for each in messages]).items():  # those of one step have one
            histogram.observe(max(now - seconds_of(stamp, now), 0.0), count)

    def stepped(self, seconds: float) -> None:
        self.of(STEP_DURATION).observe(seconds)

    def rolled_back(self, error: BaseException | None) -> None:
        """None: nothing was raised, the answer was one of 5xx."""
        self.count(STEP_ROLLBACKS, "Refused" if error is None else self._type_of(error))

    def _type_of(self, error: BaseException | None) -> str:
        if error is None:
            return ""
        found = type(error).__qualname__[:_TYPE_CHARS_MAX]
        if found not in self._error_types:
            if len(self._error_types) == ERROR_TYPES_MAX:
                return OTHER
            self._error_types.add(found)
        return found
