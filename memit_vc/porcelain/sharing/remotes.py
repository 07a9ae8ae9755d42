"""`remote`: names for the places that a repository is pushed to and pulled from, kept in config.toml."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from memit_vc.config import Config
from memit_vc.errors import MemitVCError, RevisionError, UsageError
from memit_vc.objects import RefUpdate
from memit_vc.remote.opening import checked_url
from memit_vc.repository import Repository
from memit_vc.vcs.refnames import check_ref_name

DEFAULT = "origin"


def remotes(repository: Repository) -> dict[str, str]:
    """Name → URL, sorted by name."""
    return dict(sorted(repository.config.remotes.items()))


def add_remote(repository: Repository, name: str, url: str, *, directory: Path) -> str:
    """Remember `url` (relative to `directory` if it is a path) as `name`, and return it as it is kept.

    MemitVCError if the name is taken.
    """
    check_ref_name(f"remotes/{name}/x")
    if "/" in name:
        raise UsageError(
            f"{name!r} cannot be the name of a remote: it holds a '/'",
            hint="Put the name first, then the URL: memitvc remote add NAME URL",
        )
    kept = checked_url(url, directory=directory)

    def added(config: Config) -> Config:
        if name in config.remotes:
            raise MemitVCError(
                f"remote {name!r} exists already: {config.remotes[name]}",
                hint=f"Remove it first: memitvc remote remove {name}",
            )
        return replace(config, remote={**config.remote, name: {"url": kept}})

    repository.configure(added)
    return kept


def remove_remote(repository: Repository, name: str) -> None:
    """Forget a remote and its tracking refs; nothing is deleted at the other end."""
    if name not in repository.config.remotes:
        raise _unknown(repository, name)

    def without(config: Config) -> Config:
        tracking = repository.refs(f"remotes/{name}/")
        repository.publish(
            verb="remote",
            description=f"remove {name}",
            refs=[RefUpdate(ref, commit, None) for ref, commit in tracking.items()],
        )
        return replace(config, remote={each: table for each, table in config.remote.items() if each != name})

    repository.configure(without)


def named_remote(repository: Repository, given: str | None) -> tuple[str, str]:
    """(name, checked URL) of a remote by its name; by default `origin`, or the only one there is.

    Someone may have written it into config.toml by hand: a path there is relative to the repository's directory.
    """
    known = remotes(repository)
    name = given or (DEFAULT if DEFAULT in known or len(known) != 1 else next(iter(known)))
    if name not in known:
        raise _unknown(repository, name)
    return name, checked_url(known[name], directory=repository.root.parent)


def _unknown(repository: Repository, name: str) -> RevisionError:
    known = ", ".join(remotes(repository))
    address = name if "/" in name else "URL"
    hint = f"Name one of {known}." if known and address == "URL" else f"Add one: memitvc remote add NAME {address}"
    return RevisionError(f"there is no remote {name!r}", hint=hint)
