"""`remote`: names for the places that a repository is pushed to and pulled from, kept in config.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.errors import MemitVCError, RevisionError, UsageError
from memit_vc.remote.opening import checked_url
from memit_vc.store.files import write_atomic
from memit_vc.vcs.refnames import check_ref_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["DEFAULT", "add_remote", "named_remote", "remotes", "remove_remote"]

DEFAULT = "origin"


def remotes(repository: Repository) -> dict[str, str]:
    """Name → URL, sorted by name."""
    return dict(sorted(_urls(_table(repository)).items()))


def add_remote(repository: Repository, name: str, url: str, *, directory: Path) -> str:
    """Remember `url` (a path is taken from `directory`) as `name`; the URL as it is kept. MemitVCError where it is
    taken.
    """
    check_ref_name(f"remotes/{name}/x")
    if "/" in name:
        raise UsageError(
            f"{name!r} cannot be the name of a remote: it holds a '/'",
            hint="The name comes first, then the URL: memitvc remote add NAME URL",
        )
    kept = checked_url(url, directory=directory)
    table = _table(repository)
    known = _urls(table).get(name)
    if known is not None:
        raise MemitVCError(f"remote {name!r} exists already: {known}", hint=f"`memitvc remote remove {name}` first.")
    table.setdefault("remote", {})[name] = {"url": kept}
    added = {"remote": {name: {"url": kept}}}
    _write(repository, table, text=f"{_text(repository).rstrip()}\n\n{_dumps(added)}")
    return kept


def remove_remote(repository: Repository, name: str) -> None:
    """Forget a remote and what is known of its branches; nothing is deleted at the other end."""
    from memit_vc.objects import RefUpdate

    table = _table(repository)
    if name not in _urls(table):
        raise _unknown(repository, name)
    del table["remote"][name]
    tracking = repository.refs(f"remotes/{name}/")
    repository.publish(
        verb="remote",
        description=f"remove {name}",
        refs=[RefUpdate(ref, commit, None) for ref, commit in tracking.items()],
    )
    _write(repository, table)


def named_remote(repository: Repository, given: str | None) -> tuple[str, str]:
    """(name, URL) of a remote by its name; by default `origin`, or the only one there is."""
    known = remotes(repository)
    name = given or (DEFAULT if DEFAULT in known or len(known) != 1 else next(iter(known)))
    if name not in known:
        raise _unknown(repository, name)
    return name, known[name]


def _unknown(repository: Repository, name: str) -> RevisionError:
    known = ", ".join(remotes(repository))
    hint = f"There are: {known}." if known else "`memitvc remote add NAME URL` adds one."
    return RevisionError(f"there is no remote {name!r}", hint=hint)


def _text(repository: Repository) -> str:
    return (repository.root / "config.toml").read_text(encoding="utf-8")


def _table(repository: Repository) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(_text(repository))
    return table


def _urls(table: dict[str, Any]) -> dict[str, str]:
    found = table.get("remote", {})
    if not isinstance(found, dict) or not all(
        isinstance(each, dict) and isinstance(each.get("url"), str) for each in found.values()
    ):
        raise MemitVCError("config.toml: [remote] is not understood", hint='Write [remote.origin] with url = "…".')
    return {name: each["url"] for name, each in found.items()}


def _dumps(table: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(table)


def _write(repository: Repository, table: dict[str, Any], *, text: str | None = None) -> None:
    """`text`, which keeps the user's comments, where it says the same as `table`; else the table."""
    try:
        same = text is not None and tomllib.loads(text) == table
    except tomllib.TOMLDecodeError:
        same = False
    write_atomic(repository.root / "config.toml", (text if text is not None and same else _dumps(table)).encode())
