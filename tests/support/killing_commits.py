"""A commit in a process of its own that can be killed: the fork server has imported all that a commit needs, and has
computed nothing yet, so that its children start at once and share no threads with it.
"""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
import transformers.models.auto.modeling_auto
import transformers.models.llama.modeling_llama  # noqa: F401  (loaded before the fork)

from memit_vc.cli import main
from memit_vc.numerics.edit import engine
from memit_vc.numerics.search.targets import Targets
from memit_vc.porcelain.editing import (
    batch,  # noqa: F401
    commit,  # noqa: F401
    measure,  # noqa: F401
    models,  # noqa: F401
)
from memit_vc.porcelain.output import checkout  # noqa: F401

__all__ = ["commit_in_child", "fork_server", "search_then_die"]


def fork_server() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.support.killing_commits"])
    return context


def commit_in_child(work: Path, edits: str) -> None:
    """`memitvc commit`, as a child process runs it; exits with the command's code."""
    torch.set_num_threads(1)
    os._exit(main(["commit", edits, "-C", str(work)]))


def search_then_die(work: Path, edits: str, whole: int) -> None:
    """A commit in chunks of one fact that is killed when z of its first `whole` facts is found and kept."""
    torch.set_num_threads(1)
    search, done = engine.find, 0
    engine.CHUNK = 1

    def counted(*arguments: object, **named: object) -> Targets:
        nonlocal done
        if done == whole:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return search(*arguments, **named)  # type: ignore[arg-type]

    engine.find = counted  # type: ignore[assignment]
    os._exit(main(["commit", edits, "-C", str(work)]))
