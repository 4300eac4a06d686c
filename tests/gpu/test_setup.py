"""What facedetd-gpu-setup says of the GPU that is here, beside what nvidia-smi says. Needs the driver only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "packaging" / "gpu"))

from facedetd_gpu_setup import facts, findings


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="nvidia-smi isn't here")
def test_it_sees_what_nvidia_smi_sees(tmp_path: Path) -> None:
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    here = facts.look(tmp_path)
    assert here.driver and here.driver_fault == ""
    assert [f"{gpu.name}, {gpu.sm[0]}.{gpu.sm[1]}" for gpu in here.gpus] == done.stdout.strip().splitlines()
    assert (12, 0) <= here.cuda < (99, 0)
    assert not findings.failed(findings.of_gpu(here))
