"""A repository of the Hub for someone who only loads models: a clone in the user's cache, fetched to at each use."""

from __future__ import annotations

import logging
import re
from hashlib import sha256
from pathlib import Path

from memit_vc.config import user_cache
from memit_vc.errors import RemoteError, RevisionError, UsageError
from memit_vc.objects import CommitId
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.sharing.remotes import DEFAULT
from memit_vc.remote.opening import hub_name
from memit_vc.repository import Repository
from memit_vc.store.files import make_directories, storage_errors
from memit_vc.store.locks import locked

logger = logging.getLogger(__name__)
_WAIT = 3600.0
"""Seconds."""


def cached_clone(url: str) -> Path:
    """The directory of the clone of a checked URL, made on first use and fetched to on every later one.

    If the Hub is out of reach then, the last fetched state is used, with a warning. Errors as for `clone`.
    """

    name, branch = hub_name(url) or ("", "")
    # the digest tells branches apart that have "/" and "--" in the same place
    readable = f"{name}@{branch}".replace("/", "--")
    place = user_cache() / "clones" / f"{readable[:100]}-{sha256(url.encode()).hexdigest()[:10]}"
    with storage_errors(place):
        make_directories(place.parent)
    # many processes of one launch ask for the same model at once, and the first downloads it
    busy, hint = f"another process has been cloning {url} for an hour", f"Stop it, or remove {place}.lock."
    with locked(Path(f"{place}.lock"), wait=_WAIT, busy=busy, hint=hint):
        if not (place / ".memitvc").is_dir():
            try:
                return clone(url, place, start=place.parent).directory
            except UsageError as error:
                raise UsageError(
                    error.message,
                    hint=f"Type: memitvc clone {url} DIR --base BASE, then give that directory instead of the address.",
                ) from error
        with Repository.open(place) as repository:
            try:
                fetch(repository, DEFAULT)
            except RemoteError as error:
                logger.warning("%s; using the state of the last fetch", error.message)
    return place


def resolve_there(repository: Repository, revision: str) -> CommitId:
    """A revision as the remote names it: its branches where they are now; HEAD is its default branch."""
    head = repository.head().branch
    match = re.match(r"(HEAD|@)(?=$|[~^])", revision)
    name = f"{head}{revision[match.end() :]}" if match else revision
    try:
        return repository.resolve(f"{DEFAULT}/{name}")
    except RevisionError:
        return repository.resolve(revision)
