from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memit_vc.cli.io import IO, verb
from memit_vc.errors import UsageError
from memit_vc.progress import count, size_text

if TYPE_CHECKING:
    from memit_vc.remote.opening import PushOptions, Visibility


@verb(name="push", example="memitvc push\nmemitvc push origin main --tag v1.0")
@click.argument("remote", required=False)
@click.argument("branch", required=False)
@click.option(
    "--tag",
    metavar="TAG",
    help="Also publish the branch's tip under the tag TAG. If this repository has no tag TAG, the tag is made here, "
    "too. With --merged, only the Hub repository gets the tag.",
)
@click.option(
    "--branch",
    "hub_branch",
    metavar="NAME",
    help="On the Hub: push to the git branch NAME of the Hub repository. If this git branch does not exist, it is "
    "created from main. (The argument BRANCH names a branch of the memit-vc repository.)",
)
@click.option("--create-pr", is_flag=True, help="On the Hub: open a pull request.")
@click.option(
    "--public", "visibility", flag_value="public", help="On the Hub: if the repository is new, make it public."
)
@click.option(
    "--private", "visibility", flag_value="private", help="On the Hub: if the repository is new, make it private."
)
@click.option(
    "--no-constraints",
    is_flag=True,
    help="Leave out the constraints (stored keys and targets): about half of the bytes. --resolve and later commits "
    "need constraints.",
)
@click.option("--no-adapter", is_flag=True, help="Leave out the PEFT adapter, which is for people without memit-vc.")
@click.option(
    "--merged", is_flag=True, help="Push the whole edited model. REMOTE is OWNER/NAME, and BRANCH is any revision."
)
@click.option("--dry-run", is_flag=True, help="List what would be sent, and send nothing.")
def command(
    io: IO,
    remote: str | None,
    branch: str | None,
    hub_branch: str | None,
    create_pr: bool,
    visibility: Visibility | None,
    no_constraints: bool,
    no_adapter: bool,
    merged: bool,
    **more: Any,
) -> None:
    """Push BRANCH (default: the current branch) and the tags on BRANCH to REMOTE (default: origin, or the only remote).

    The remote's history only grows. If the remote's BRANCH has commits that the local BRANCH lacks, the push is refused
    with exit code 11: pull first. If you rewrote commits that the remote has, push under another branch name, or take
    the rewrite back with `memitvc undo`. New commits on the remote's other branches do not stop the push.

    Only missing objects are sent. The branch and its tags change together, or not at all. In a bucket, model card and
    adapter follow after this change. A killed push may leave objects on the remote. The next push uses these objects.

    --merged pushes the edited model instead of the history, to a separate Hub repository. transformers and vLLM load
    this model by name. If the base is on the Hub, shards without edits are not uploaded: the Hub copies these shards
    from the base's repository.
    """
    from memit_vc.porcelain.sharing.push import push
    from memit_vc.remote.opening import PushOptions

    options, dry_run = PushOptions(hub_branch, create_pr, visibility), more["dry_run"]
    if merged:
        if no_constraints or no_adapter:
            raise click.UsageError("--merged pushes a model: it takes neither --no-constraints nor --no-adapter")
        _push_model(io, remote, branch or "HEAD", options, **more)
        return
    with io.repository() as repository, io.progress() as progress:
        kept: dict[str, Any] = {"constraints": not no_constraints, "adapter": not no_adapter}
        made = push(repository, remote, branch, options=options, progress=progress, **kept, **more)
    for note in made.notes:
        io.note(note)

    def render() -> None:
        if not made.files:
            io.line(f"{made.url} has all of {made.branch} already")
            return
        if dry_run:
            io.table(["file", "bytes"], [[path, str(size)] for path, size in made.files.items()], right=["bytes"])
        for path in made.deleted:
            io.note(f"{path} is out of date and {'would be' if dry_run else 'was'} removed")
        sent = f"{count(made.edits, 'commit')}, {count(made.objects, 'object')}, {size_text(made.bytes)}"
        io.line(f"{'would send' if dry_run else 'sent'} {sent} to {made.url}")
        if made.old != made.new:
            click.echo(f"{made.branch}: {'new' if made.old is None else made.old[:10]} → {made.new[:10]}")
        for tag, commit in made.tags.items():
            click.echo(f"{tag}: new tag at {commit[:10]}")
        if made.pull_request is not None:
            io.line(f"pull request: {made.pull_request}")

    io.emit(made, render, bytes=made.bytes, dry_run=dry_run)


def _push_model(io: IO, name: str | None, revision: str, options: PushOptions, tag: str | None, dry_run: bool) -> None:
    """Publish the model of `revision` in the Hub repository `name`. UsageError for anything that is no such name."""
    from memit_vc.porcelain.sharing.push_merged import push_merged
    from memit_vc.remote.hub import HubRemote
    from memit_vc.remote.opening import checked_url, open_remote

    if name is None:
        raise click.UsageError("name the repository for the model: memitvc push --merged OWNER/NAME [REV]")
    there = open_remote(checked_url(name, directory=Path()), options)
    if not isinstance(there, HubRemote):
        raise UsageError(
            f"{name} is not a repository on the Hub: a model is pushed to one of its own",
            hint="Give its name: memitvc push --merged OWNER/NAME. `memitvc export --merged DIR` writes a directory.",
        )
    with io.repository() as repository, io.progress() as progress:
        made = push_merged(repository, there, revision, dry_run=dry_run, progress=progress)
    if tag is not None and made.revision is not None:
        there.tag(tag, made.revision)
    for note in made.notes:
        io.note(note)

    def render() -> None:
        if dry_run:
            rows = [[path, "send", str(size)] for path, size in made.sent.items()]
            rows += [[path, "copy there", str(size)] for path, size in made.copied.items()]
            io.table(["file", "", "bytes"], rows, right=["bytes"])
        sent = f"{count(len(made.sent), 'file')}, {size_text(sum(made.sent.values()))}"
        io.line(f"{'would send' if dry_run else 'sent'} {sent} to {made.url}")
        if made.copied:
            copied = f"{count(len(made.copied), 'file')}, {size_text(sum(made.copied.values()))}"
            click.echo(f"{'would be copied' if dry_run else 'copied'} from the base on the Hub: {copied}")
        if made.kept:
            click.echo(f"there already: {count(len(made.kept), 'file')}")
        click.echo(f"the model of commit {made.commit[:10]}, state {made.state[:10]}")
        if made.pull_request is not None:
            io.line(f"pull request: {made.pull_request}")

    io.emit(made, render, dry_run=dry_run)
