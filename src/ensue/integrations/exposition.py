"""The metrics of services as Prometheus reads them. Needs `pip install "ensue[prometheus]"`, and no web framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ensue.app import Service
from ensue.engine.gauges import METRICS, measure

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]


async def exposition(services: Sequence[Service]) -> bytes:
    """Return what is measured of services that run in this process, each metric once, with the label `service`.

    Raises UsageError when one does not run here, StoreUnavailable when a database does not answer; a broker that does
    not is a value.
    """
    measured = {}
    for service in services:
        runtime = service.runtime
        measured[service.name] = await measure(runtime.context, runtime.worker)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(measured))
    return generate_latest(registry)


class _Collected:
    """What was measured, in the shape that the library writes."""

    def __init__(self, measured: Mapping[str, Any]) -> None:
        self._measured = measured

    def collect(self) -> list[Metric]:
        found: list[Metric] = []
        for metric in METRICS:
            family: Any = (CounterMetricFamily if metric.counter else GaugeMetricFamily)(
                metric.name, f"{metric.meaning} ({metric.unit})", labels=["service", *metric.labels]
            )
            for service, values in self._measured.items():
                for labels, value in values[metric].items():
                    family.add_metric([service, *labels], value)
            found.append(family)
        return found
