"""Where a process starts that runs a command: `memitvc`, and `python -m memit_vc` for launchers such as torchrun."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process; the exit code."""
    try:
        from memit_vc.cli import main as run

        return run()
    except KeyboardInterrupt:  # while the command itself was being loaded
        if sys.stderr is not None:
            sys.stderr.write("interrupted before anything was done\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
