"""`/metrics` for Prometheus: `install(app, orders, metrics=True)`. Needs `pip install "ensue[prometheus]"`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.utils import floatToGoString

from ensue.app import Service
from ensue.engine.gauges import METRICS, Values, measure
from ensue.engine.metric import Measured, Metric


def metrics_route(service: Service, *, path: str = "/metrics", database: bool | None = None) -> APIRouter:
    """Return a router with the metrics of a service that runs in this process (docs/reference/metrics.md lists them).

    database: whether to tell what is read from the database and is the same in all processes of the service; None: in
    the one that holds the relay's lease, so that a sum over processes counts it once, or in all while nobody holds it.
    True is for a service none of whose workers has a route, and for one process of it.
    503 when its database does not answer, as every route; a broker that does not answer is `ensue_broker_up 0`.
    """
    router = APIRouter(tags=["metrics"])

    @router.get(path, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        runtime = service.runtime
        values = await measure(runtime.context, runtime.worker, database=database)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(service.name, values, runtime.context.measured))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


class _Collected:
    """What was measured, in the shape that the library writes."""

    def __init__(self, service: str, values: dict[Metric, Values], measured: Measured) -> None:
        self._service = service
        self._values = values
        self._measured = measured

    def collect(self) -> list[Family]:
        return [self._histogram(each) if each.buckets else self._family(each) for each in METRICS]

    def _family(self, metric: Metric) -> Family:
        family: Any = (CounterMetricFamily if metric.counter else GaugeMetricFamily)(
            metric.name, _described(metric), labels=["service", *metric.labels]
        )
        for labels, value in self._values.get(metric, {}).items():
            family.add_metric([self._service, *labels], value)
        return family  # type: ignore[no-any-return]  # the library types its families by halves

    def _histogram(self, metric: Metric) -> Family:
        family = HistogramMetricFamily(metric.name, _described(metric), labels=["service", *metric.labels])
        for labels, found in self._measured.histograms.get(metric, {}).items():
            names = [*map(floatToGoString, metric.buckets), "+Inf"]
            family.add_metric([self._service, *labels], list(zip(names, found.cumulated, strict=True)), found.sum)
        return family


def _described(metric: Metric) -> str:
    return f"{metric.meaning} ({metric.unit})"
