"""What `make run DURATION=20` tells at its end."""

import json

import pytest

from facedetctl.bench.figures import Check, Measured
from facedetctl.bench.gpu import GpuUse
from tests.demo import report

BUSY = "degradation: host was short: other programs use 1.7 of 2 cores"


@pytest.mark.parametrize(("passed", "why"), [(True, ""), (False, f"the daemon says: {BUSY}\n")])
def test_a_check_that_fails_stands_with_what_the_daemon_says(capsys, passed, why):
    check = Check("fps", "target ±5%", "4.26 of 5 fps (cam3)", passed)
    report(Measured((), 15.0, None, 1.0, 1, None, GpuUse(), (check,)), [BUSY])
    said = capsys.readouterr()
    verdict = "pass" if passed else "FAIL"
    assert said.err == f"{verdict}  fps: wanted target ±5%, found 4.26 of 5 fps (cam3)\n{why}"
    assert json.loads(said.out) == {"streams": [], "pass": passed}
