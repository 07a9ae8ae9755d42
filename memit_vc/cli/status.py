from __future__ import annotations

import click

from memit_vc.cli.io import IO, verb
from memit_vc.progress import count


@verb(name="status", example="memitvc status")
def command(io: IO) -> None:
    """Show the base, the branch, the number of live facts, the number of commits to push and to pull, and whether the
    statistics are ready. This loads no model and contacts no remote: the remote's commits are those of the last `fetch`
    or `push`.
    """
    from memit_vc.porcelain.history.status import status

    with io.repository() as repository:
        found = status(repository)

    def render() -> None:
        where = f"On branch {found.branch}" if found.branch else f"HEAD detached at {found.commit[:10]}"
        click.echo(f"{where}: {found.commit[:10]} {found.subject}")
        revision = f" at {found.revision[:10]}" if found.revision else ""
        gone = "" if found.base_is_here else ": this directory is gone"
        io.line(f"base    {found.base}{revision}, fingerprint {found.base_id[:10]}{gone}")
        live, commits = count(found.live_facts, "fact"), count(found.commits, "commit")
        if found.live_adapters:
            live += f" and {count(found.live_adapters, 'adapter')}"
        click.echo(
            f"state   {found.state[:10]}: {live} live ({found.load:.1%} of the layers' inputs); {commits} on the base"
        )
        for each in found.followed:
            ahead, behind = count(each.ahead, "commit"), count(each.behind, "commit")
            apart = [f"{ahead} to push"] if each.ahead else []
            apart += [f"{behind} to pull"] if each.behind else []
            click.echo(f"remote  {each.name}: {', '.join(apart) or 'the same'}, as of the last fetch")
        ready = f"{found.statistics} computed" if found.statistics else "none yet (`memitvc stats` or the first commit)"
        click.echo(f"ready   statistics: {ready}")
        for patch in found.kept:
            click.echo(f"kept    patch {patch[:10]}: memitvc commit --patch {patch[:10]}")

    io.emit(found, render)
