"""Commands as a user starts them: the interpreter, the imports and the verb, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["memitvc"]


def memitvc(repository: Path, *words: str) -> dict[str, float]:
    """Seconds of one command. Beside the wall clock stand processor seconds, which depend less on other users."""
    command = [sys.executable, "-m", "memit_vc", words[0], "-C", str(repository), *words[1:]]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": wall,
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
