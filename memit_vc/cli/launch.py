"""Where the command line starts: at once, or as one of the processes of a torchrun launch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from memit_vc.cli.main import main as run
from memit_vc.cli.streams import stoppable
from memit_vc.errors import MemitVCError
from memit_vc.foreign.text import indented


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; under torchrun rank 0 runs it and the others help. Returns the exit code; a launched process
    ends here.
    """
    launched = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    if not launched or int(os.environ["WORLD_SIZE"]) < 2:
        return run(arguments, guard=stoppable())
    from memit_vc.porcelain.editing.processes import in_team, leave

    try:
        code = in_team(lambda: run(arguments), local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    except MemitVCError as error:
        click.echo(f"error: process {os.environ['RANK']}: {indented(error.message)}", err=True)
        if error.hint:
            click.echo(f"hint: {indented(error.hint)}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:  # of a helper: the leader says it
        code = 130
    return leave(code)
