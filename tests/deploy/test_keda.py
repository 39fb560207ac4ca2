"""The example for KEDA asks for a metric that there is, and scales what can be scaled."""

from __future__ import annotations

import re
from pathlib import Path

from tests.deploy.documents import DEPLOY, documents
from tests.deploy.promtool import check_queries

from ensue.engine.gauges import LAG, METRICS
from ensue.integrations.boards import name_of

KUBERNETES = DEPLOY / "kubernetes"
[SCALED] = documents(KUBERNETES / "keda.yaml")
[TRIGGER] = SCALED["spec"]["triggers"]
QUERY = TRIGGER["metadata"]["query"]


def test_it_scales_a_deployment_within_what_its_partitions_allow() -> None:
    assert (SCALED["apiVersion"], SCALED["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = SCALED["spec"]
    name = spec["scaleTargetRef"]["name"]
    deployment, *_ = documents(KUBERNETES / "base" / f"{name}.yaml")
    assert (deployment["kind"], deployment["metadata"]["name"]) == ("Deployment", name)
    partitions = re.search(r"^ENSUE_PARTITIONS=(\d+)$", (KUBERNETES / "base/settings.env").read_text(), re.MULTILINE)
    assert partitions is not None
    assert deployment["spec"]["replicas"] == spec["minReplicaCount"] >= 2
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"] == int(partitions[1])
    assert f'service="{name}"' in QUERY


def test_its_query_asks_for_a_metric_with_these_labels() -> None:
    assert TRIGGER["type"] == "prometheus"
    asked = re.findall(r"\b(?:ensue|messaging)_\w+", QUERY)
    assert asked == [name_of(LAG)]
    assert set(asked) <= {name_of(each) for each in METRICS}
    [by] = re.findall(r"by \(([^)]*)\)", QUERY)
    assert tuple(by.split(", ")) == LAG.labels


def test_its_query_counts_each_partition_once_and_nobody_elses(tmp_path: Path) -> None:
    series = {
        'ensue_lag{service="customers",topic="orders",partition="0",instance="one"}': "700x20",
        'ensue_lag{service="customers",topic="orders",partition="0",instance="two"}': "900x20",  # it takes it over
        'ensue_lag{service="customers",topic="orders",partition="1",instance="two"}': "50x20",
        'ensue_lag{service="orders",topic="orders",partition="1",instance="three"}': "5x20",
    }
    check_queries(tmp_path, series, [(QUERY, "{}", 950)])
