"""Start processes of one run, as a user does with torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.paths import ROOT

__all__ = ["launch"]


def launch(module: str, arguments: Sequence[str | Path], *, processes: int) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE …` where `processes` is 1, else the same under torchrun; one thread each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", module, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
