"""The product in a process of its own, as a user runs it: HF_ENDPOINT is read when the client is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.hub.loopback import Loopback

__all__ = ["memitvc"]


def memitvc(
    hub: Loopback, directory: Path, *arguments: str, token: str | None = None, xet: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command as ada (or with a token); the client keeps its caches beside the Hub's files."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": token or "hf_ada",
        "HF_HOME": str(hub.root.parent / "hf-home"),
    }
    if not xet:
        environment["HF_HUB_DISABLE_XET"] = "1"
    command = [sys.executable, "-m", "memit_vc", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
