"""Commands in processes of their own that are killed at a chosen step: each step is one change of the file system."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

from memit_vc import concurrency
from memit_vc.cli import main
from memit_vc.numerics.exact import received  # noqa: F401  (loaded before the fork)
from memit_vc.numerics.output import lora  # noqa: F401  (loaded before the fork)
from memit_vc.porcelain import setup  # noqa: F401
from memit_vc.porcelain.output import export_adapter  # noqa: F401
from memit_vc.porcelain.sharing import (
    card,  # noqa: F401
    clone,  # noqa: F401
    pull,  # noqa: F401
    push,  # noqa: F401
)

__all__ = ["fork_server", "run"]


def fork_server() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.support.killing_transfers"])
    return context


def _one_thread(_: int, **named: Any) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, **named)


def run(arguments: list[str], steps: int | None, told: str) -> None:
    """`memitvc …`; with `steps`, killed by SIGKILL before the step of that number. Writes the steps done to `told`."""
    torch.set_num_threads(1)
    # a remote's files are written by several threads; which of them makes a directory changes the number of steps
    concurrency.ThreadPoolExecutor = _one_thread  # type: ignore[assignment, misc]
    done = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **named: Any) -> Any:
            nonlocal done
            if done == steps:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return call(*args, **named)

        return step

    # what every writer here goes through: the file's bytes are durable, the name appears, the name goes
    os.fsync = counted(os.fsync)
    for name in ("rename", "replace", "unlink", "rmdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    code = main(arguments)
    Path(told).write_text(str(done))
    os._exit(code)
