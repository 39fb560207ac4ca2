"""What is made of the metrics' declarations: a board for Grafana, alert rules for Prometheus, a table for people.

    python -m ensue.integrations.boards DIRECTORY

writes `grafana/ensue.json` and `prometheus/ensue.rules.yaml` there: the same as in the repository's `deploy`. Nothing
is typed twice, so a metric that is renamed takes its panel and its alert along.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensue.engine.gauges import METRICS
from ensue.engine.metric import Alert, Metric
from ensue.errors import UsageError

_WIDTH, _HEIGHT, _ACROSS = 8, 7, 3
_QUANTILES = (0.5, 0.95, 0.99)
_SERVICE = 'service=~"$service"'
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def name_of(metric: Metric) -> str:
    """Of its samples, as Prometheus has them.

    >>> from ensue.engine.gauges import APPLIED, LAG
    >>> name_of(APPLIED), name_of(LAG)
    ('ensue_applied_total', 'ensue_lag')
    """
    return f"{metric.name}_total" if metric.counter else metric.name


# -------------------------------------------------------------------------------------------------------- alert rules


def title_of(metric: Metric) -> str:
    """Of its alert.

    >>> from ensue.engine.gauges import BROKER_UP
    >>> title_of(BROKER_UP)
    'EnsueBrokerUp'
    """
    if metric.alert is not None and metric.alert.title:
        return metric.alert.title
    return "".join(word.capitalize() for word in metric.name.split("_"))


def expression_of(metric: Metric, alert: Alert) -> str:
    """What Prometheus asks.

    >>> from ensue.engine.gauges import BUILD_INFO, RETRIES, SAGAS
    >>> from ensue.engine.metric import Alert
    >>> expression_of(SAGAS, SAGAS.alert)
    'max by (service, saga, version, status) (ensue_sagas{status="PARKED"}) > 0'
    >>> expression_of(RETRIES, Alert("rate > 0", ""))
    'max by (service) (ensue_retries_total) - min by (service) (min_over_time(ensue_retries_total[10m])) > 0'
    >>> expression_of(BUILD_INFO, BUILD_INFO.alert)
    'count by (service) (ensue_build_info) unless on (service) ensue_outbox_unsent'
    """
    if alert.without:
        return f"count by (service) ({name_of(metric)}) unless on (service) {alert.without}"
    series = name_of(metric) + (f"{{{alert.of}}}" if alert.of else "")
    by = ", ".join(("service", *metric.labels))
    growth = alert.when.removeprefix("rate ")
    if growth != alert.when:
        # Another process may tell it by now, in a series that is new: `increase` does not count what it begins with.
        return f"max by ({by}) ({series}) - min by ({by}) (min_over_time({series}[10m])) {growth}"
    return f"{alert.over} by ({by}) ({series}) {alert.when}"


def rules() -> str:
    """The rules as Prometheus reads them from a file. Texts are JSON, which YAML includes."""
    lines = [
        "# Made from the declarations of src/ensue/engine/gauges.py: python -m ensue.integrations.boards deploy",
        "groups:",
        "  - name: ensue",
        "    rules:",
    ]
    for metric in METRICS:
        if metric.alert is None:
            continue
        alert = metric.alert
        labels = () if alert.without else metric.labels  # which are counted together there
        about = "".join(f" {label} {{{{ $labels.{label} }}}}" for label in labels)
        says = f"no process tells {alert.without}" if alert.without else f"{metric.name} is {{{{ $value }}}}"
        lines += [
            f"      - alert: {title_of(metric)}",
            f"        expr: {json.dumps(expression_of(metric, alert))}",
            f"        for: {alert.lasting}",
            "        labels:",
            f"          severity: {'page' if alert.page else 'ticket'}",
            "        annotations:",
            f"          summary: {json.dumps(f'{{{{ $labels.service }}}}{about}: {says}')}",
            f"          description: {json.dumps(f'{metric.meaning}. {alert.do}.')}",
        ]
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------------------- board


def board() -> str:
    """The board as Grafana imports it: first what there are alerts for, then how long things take, then the rest."""
    rows = {
        "What somebody has to look at": [each for each in METRICS if each.alert is not None],
        "How long it takes": [each for each in METRICS if each.alert is None and each.buckets],
        "What goes on": [each for each in METRICS if each.alert is None and not each.buckets],
    }
    panels: list[dict[str, Any]] = []
    top = 0
    for title, metrics in rows.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}, "panels": []})
        top += 1
        for number, metric in enumerate(metrics):
            place = {"x": number % _ACROSS * _WIDTH, "y": top + number // _ACROSS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(metric, place))
        top += -(-len(metrics) // _ACROSS) * _HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    found = {
        "title": "Ensue",
        "uid": "ensue",
        "tags": ["ensue"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_variable_of_source(), _variable_of_service()]},
        "panels": panels,
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _panel(metric: Metric, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": name_of(metric),
        "description": f"{metric.meaning} ({metric.unit})",
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": "s" if metric.unit == "seconds" else "short", "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend, "datasource": _DATASOURCE}
            for number, (expression, legend) in enumerate(_series(metric))
        ],
    }


def _series(metric: Metric) -> Sequence[tuple[str, str]]:
    by = ", ".join(("service", *metric.labels))
    legend = " ".join(f"{{{{{label}}}}}" for label in ("service", *metric.labels))
    name = name_of(metric)
    if metric.buckets:
        buckets = f"{name}_bucket{{{_SERVICE}}}"
        return [
            (
                f"histogram_quantile({each}, sum by (le, service) (rate({buckets}[$__rate_interval])))",
                f"{{{{service}}}} p{each * 100:g}",
            )
            for each in _QUANTILES
        ]
    if metric.counter:
        return [(f"sum by ({by}) (rate({name}{{{_SERVICE}}}[$__rate_interval]))", f"{legend} per second")]
    over = "max" if metric.alert is None else metric.alert.over
    return [(f"{over} by ({by}) ({name}{{{_SERVICE}}})", legend)]


def _variable_of_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _variable_of_service() -> dict[str, Any]:
    return {
        "name": "service", "type": "query", "label": "Service", "datasource": _DATASOURCE,
        "query": "label_values(ensue_build_info, service)", "refresh": 2, "multi": True, "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- table


def table() -> str:
    """The metrics as a table of Markdown."""
    lines = ["| metric | labels | what it says | alert |", "|---|---|---|---|"]
    for metric in METRICS:
        kind = "histogram, " if metric.buckets else "counter, " if metric.counter else ""
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        alert = ""
        if metric.alert is not None:
            of = f"`{metric.alert.of}` " if metric.alert.of else ""
            lasting = "" if metric.alert.lasting == "0m" else f" for {metric.alert.lasting}"
            alert = f"{of}`{metric.alert.when}`{lasting}{', page' if metric.alert.page else ''}"
        said = f"{metric.meaning} ({kind}{metric.unit}){'; told by one process' if metric.database else ''}"
        lines.append(f"| `{name_of(metric)}` | {labels} | {said} | {alert} |")
    return "\n".join(lines) + "\n"


def write(directory: Path) -> Sequence[Path]:
    """Write board and rules below `directory`; return where they are."""
    files = {"grafana/ensue.json": board(), "prometheus/ensue.rules.yaml": rules()}
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in files]


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 1:
        raise UsageError("python -m ensue.integrations.boards DIRECTORY: name the directory to write to, and only that")
    for path in write(Path(arguments[0])):
        print(path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(str(error))
