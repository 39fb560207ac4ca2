"""`/metrics` for Prometheus: `install(app, orders, metrics=True)`. Needs `pip install "ensue[prometheus]"`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ensue.app import Service
from ensue.engine.gauges import METRICS, measure


def metrics_route(service: Service, *, path: str = "/metrics") -> APIRouter:
    """Return a router with the metrics of a service that runs in this process (see `engine.gauges` for what they are).

    503 when its database does not answer, as every route; a broker that does not answer is `ensue_broker_up 0`.
    """
    router = APIRouter(tags=["metrics"])

    @router.get(path, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        runtime = service.runtime
        values = await measure(runtime.context, runtime.worker)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(service.name, values))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


class _Collected:
    """What was measured, in the shape that the library writes."""

    def __init__(self, service: str, values: Any) -> None:
        self._service = service
        self._values = values

    def collect(self) -> list[Metric]:
        found: list[Metric] = []
        for metric in METRICS:
            family: Any = (CounterMetricFamily if metric.counter else GaugeMetricFamily)(
                metric.name, f"{metric.meaning} ({metric.unit})", labels=["service", *metric.labels]
            )
            for labels, value in self._values[metric].items():
                family.add_metric([self._service, *labels], value)
            found.append(family)
        return found
