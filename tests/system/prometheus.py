"""Debian's Prometheus inside the machine, with the project's example configuration and alerts."""

from __future__ import annotations

import json
from pathlib import Path

from tests.system.conftest import Machine

EXAMPLE = Path(__file__).resolve().parents[2] / "packaging" / "prometheus"
ASK = """
import sys, urllib.parse, urllib.request
query = urllib.parse.urlencode({"query": sys.argv[1]})
print(urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query?" + query, timeout=10).read().decode())
"""


def start(machine: Machine) -> None:
    for file in ("prometheus.yml", "facedetd-alerts.yml"):
        text = (EXAMPLE / file).read_text().replace("scrape_interval: 15s", "scrape_interval: 1s")
        machine.write(f"/etc/prometheus-test/{file}", text)
    machine.run(
        "systemd-run", "--unit=prometheus-test", "prometheus", "--config.file=/etc/prometheus-test/prometheus.yml",
        "--storage.tsdb.path=/var/tmp/prometheus-test", "--web.listen-address=127.0.0.1:9090",
    )  # fmt: skip


def ask(machine: Machine, query: str) -> float | None:
    """The one value of a query; None: there is none (yet)."""
    done = machine.run("python3", "-c", ASK, query, check=False)
    if done.returncode != 0:
        return None
    result = json.loads(done.stdout)["data"]["result"]
    return float(result[0]["value"][1]) if result else None
