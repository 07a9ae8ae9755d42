"""The command line: one file per command, each loaded only when it is called."""

from __future__ import annotations

from memit_vc.cli.launch import main as main
