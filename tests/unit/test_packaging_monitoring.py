"""Alerts and dashboard speak of metrics that exist, and the alerts do what their tests say."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docs.tools import reference_pages

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
ALERTS = PACKAGING / "prometheus" / "facedetd-alerts.yml"
NAME = re.compile(r"\bfacedetd_[a-z0-9_]+")


def series() -> set[str]:
    """Names of series, as a query says them: of a histogram its parts."""
    rows = re.findall(r"^\| `(facedetd_\w+)` \| (\w+) \|", reference_pages.metrics(), re.MULTILINE)
    parts = ("_bucket", "_sum", "_count")
    return {name + part for name, kind in rows for part in (parts if kind == "histogram" else ("",))}


def labels() -> dict[str, set[str]]:
    """Series name to its labels, as the reference lists them."""
    rows = re.findall(r"^\| `(facedetd_\w+)` \| \w+ \| ([^|]*) \|", reference_pages.metrics(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows}


def queries() -> list[str]:
    dashboard = json.loads((PACKAGING / "grafana" / "facedetd.json").read_text())
    found = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    return found + [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]


def test_every_metric_of_the_dashboard_exists():
    named = {name for query in queries() for name in NAME.findall(query)}
    assert len(named) > 15 and named <= series(), named - series()


def test_every_metric_of_the_alerts_exists():
    expressions = re.findall(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.*))", ALERTS.read_text())
    named = {name for pair in expressions for name in NAME.findall("".join(pair))}
    assert len(named) > 8 and named <= series(), named - series()


def test_labels_in_queries_are_those_of_the_metric():
    known = labels()
    scraped = {"job", "instance"}
    for query in [*queries(), ALERTS.read_text()]:
        for name, inside in re.findall(r"(facedetd_\w+)\{([^}]*)\}", query):
            base = name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)
            used = set(re.findall(r"(\w+)=", inside))
            assert used <= known[base] | scraped, f"{name}: {used - known[base] - scraped}"


def test_the_states_that_queries_ask_for_exist():
    states = {*(s.value for s in reference_pages.STREAM_STATES), *(s.value for s in reference_pages.DAEMON_STATES)}
    states |= {"none", "reduced", "overcommitted", "halted"}
    asked = re.findall(r'state(?:=~|!=|=)"([^"]*)"', "\n".join([*queries(), ALERTS.read_text()]))
    assert asked and {word for text in asked for word in text.split("|")} <= states


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_the_alerts_pass_their_own_tests():
    done = subprocess.run(
        ["promtool", "test", "rules", "facedetd-alerts-test.yml"],
        cwd=ALERTS.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = (ALERTS.parent / "facedetd-alerts-test.yml").read_text()
    for alert in re.findall(r"alert: (\w+)", ALERTS.read_text()):
        assert alert in text, f"{alert} has no test"
    example = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=ALERTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert example.returncode == 0, example.stdout + example.stderr
