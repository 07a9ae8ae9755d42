"""The product in a process of its own, as a user runs it: HF_ENDPOINT is read when the client is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.hub.loopback import Loopback

__all__ = ["memitvc", "started"]


def memitvc(
    hub: Loopback, directory: Path, *arguments: str, token: str | None = None, xet: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command as ada (or with a token); the client keeps its caches beside the Hub's files."""
    done = started(hub, directory, *arguments, token=token, xet=xet)
    out, err = done.communicate()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def started(
    hub: Loopback, directory: Path, *arguments: str, token: str | None = None, xet: bool = False
) -> subprocess.Popen[str]:
    """The same, still running."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": token or "hf_ada",
        "HF_HOME": str(hub.root.parent / "hf-home"),
    }
    if not xet:
        environment["HF_HUB_DISABLE_XET"] = "1"
    command = [sys.executable, "-m", "memit_vc", *arguments]
    return subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
