"""The metrics of services as Prometheus reads them. Needs `pip install "ensue[prometheus]"`, and no web framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.utils import floatToGoString

from ensue.app import Service
from ensue.engine.gauges import METRICS, Values, measure
from ensue.engine.metric import Histogram, Metric

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]


async def exposition(services: Sequence[Service], *, database: bool | None = None) -> bytes:
    """Return what is measured of services that run in this process, each metric once, with the label `service`.

    database: see `metrics_route`. Raises UsageError when one does not run here, StoreUnavailable when a database does
    not answer; a broker that does not is a value.
    """
    found: dict[str, _Measured] = {}
    for service in services:
        runtime = service.runtime
        values = await measure(runtime.context, runtime.worker, database=database)
        found[service.name] = _Measured(values, runtime.context.measured.histograms)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(found))
    return generate_latest(registry)


class _Measured(NamedTuple):
    values: Mapping[Metric, Values]
    histograms: Mapping[Metric, Mapping[tuple[str, ...], Histogram]]


class _Collected:
    """What was measured, in the shape that the library writes."""

    def __init__(self, services: Mapping[str, _Measured]) -> None:
        self._services = services

    def collect(self) -> list[Family]:
        return [self._histogram(each) if each.buckets else self._family(each) for each in METRICS]

    def _family(self, metric: Metric) -> Family:
        family: Any = (CounterMetricFamily if metric.counter else GaugeMetricFamily)(
            metric.name, _described(metric), labels=["service", *metric.labels]
        )
        for service, measured in self._services.items():
            for labels, value in measured.values.get(metric, {}).items():
                family.add_metric([service, *labels], value)
        return family  # type: ignore[no-any-return]  # one of two classes whose add_metric differs

    def _histogram(self, metric: Metric) -> Family:
        family = HistogramMetricFamily(metric.name, _described(metric), labels=["service", *metric.labels])
        names = [*map(floatToGoString, metric.buckets), "+Inf"]
        for service, measured in self._services.items():
            for labels, found in measured.histograms.get(metric, {}).items():
                family.add_metric([service, *labels], list(zip(names, found.cumulated, strict=True)), found.sum)
        return family


def _described(metric: Metric) -> str:
    return f"{metric.meaning} ({metric.unit})"
