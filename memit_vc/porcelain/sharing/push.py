"""`push`: what the other end lacks, in one change, on top of what it has."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from memit_vc.errors import MemitVCError, RefMovedError, RemoteError, RevisionError, UsageError
from memit_vc.objects import CommitId, RefUpdate, short
from memit_vc.porcelain.sharing.push_tree import history_files, reader_files
from memit_vc.porcelain.sharing.remote_history import Published, same_base
from memit_vc.porcelain.sharing.remotes import DEFAULT, named_remote, remotes
from memit_vc.progress import Progress, count, silent, size_text
from memit_vc.remote.manifest import MANIFEST, RemoteManifest, object_path, unfinished_path
from memit_vc.remote.opening import PushOptions, on_branch, open_remote
from memit_vc.remote.protocol import Change, Remote, RemoteFile, content_size
from memit_vc.repository import Repository
from memit_vc.vcs.graph import ancestors, is_ancestor
from memit_vc.vcs.refnames import check_distinct, check_one_meaning, check_ref_name

_ATTEMPTS = 5
"""Tries while others push other branches to the same place."""


@dataclass(frozen=True)
class Pushed:
    """`files` maps the files that were sent (with `dry_run`: would be) to their bytes; empty if all were there already.

    `remote` is its name, or its URL if no remote here is that branch of the Hub. `old` is where the branch was at the
    other end. `deleted` are files of an adapter of an earlier state.
    """

    remote: str
    url: str
    branch: str
    old: CommitId | None
    new: CommitId
    commits: tuple[CommitId, ...]
    objects: int
    files: Mapping[str, int]
    deleted: tuple[str, ...] = ()
    pull_request: str | None = None
    notes: tuple[str, ...] = ()
    edits: int = 0
    """All `commits` but the root, as `clone` and `status` count them."""
    tags: Mapping[str, CommitId] = field(default_factory=dict)
    """Those that are new at the other end."""

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


class _BehindError(RefMovedError):
    """The branch itself has commits that are not here: trying again does not help."""


def push(
    repository: Repository,
    remote: str | None = None,
    branch: str | None = None,
    *,
    tag: str | None = None,
    options: PushOptions | None = None,
    constraints: bool = True,
    adapter: bool = True,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Pushed:
    """Publish a branch (default: HEAD's) with the tags on it; `tag` is first put on its tip, if it does not exist.

    RefMovedError if the other end has commits that the branch lacks, or moved meanwhile; RemoteError if it holds
    another base or refuses. Then nothing changed on either side. After a push that was cut off, push again: what had
    arrived is not sent twice. With `dry_run` nothing is sent.
    """
    import tenacity

    options = options or PushOptions()
    name, url = _place(repository, remote, options)
    chosen = branch or repository.head().branch
    if chosen is None:
        raise UsageError("HEAD is on no branch", hint="Name the branch to push: memitvc push REMOTE BRANCH")
    branches = repository.refs("heads/")
    if f"heads/{chosen}" not in branches:
        known = ", ".join(ref[6:] for ref in branches)
        raise RevisionError(
            f"there is no branch {chosen!r}",
            hint=f"Name one of {known}, or make one: memitvc branch NAME REV",
        )
    there = open_remote(url, options)
    tip = branches[f"heads/{chosen}"]
    attempt = _Attempt(
        repository, there, name, chosen, tip, tag, constraints, adapter, dry_run, options.create_pr, progress
    )
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, RefMovedError) and not isinstance(e, _BehindError)),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(0.1, max=2),
        reraise=True,
    )
    return again(attempt.run)


def _place(repository: Repository, given: str | None, options: PushOptions) -> tuple[str | None, str]:
    """(remote, URL). The remote is None for a branch of the Hub that is not one of the remotes here."""
    name, url = named_remote(repository, given)
    wanted = on_branch(url, options.branch)
    if wanted == url:
        return name, url
    return next((each for each, known in remotes(repository).items() if known == wanted), None), wanted


@dataclass(frozen=True)
class _Attempt:
    """`name` is the remote whose tracking refs follow the push; None if there is none."""

    repository: Repository
    there: Remote
    name: str | None
    branch: str
    tip: CommitId
    tag: str | None
    constraints: bool
    adapter: bool
    dry_run: bool
    proposed: bool
    progress: Progress

    @property
    def _label(self) -> str:
        return self.name or self.there.url

    def run(self) -> Pushed:
        repository, there, ref = self.repository, self.there, f"heads/{self.branch}"
        head = there.head()
        revision = head or there.start()
        before = None if revision is None else Published.at(there, revision)
        if before is not None:
            same_base(repository, before.manifest, there.url)
        refs = {} if before is None else dict(before.manifest.refs)
        old = refs.get(ref)
        forward = old is None or (repository.has_commit(old) and is_ancestor(old, self.tip, repository.parents))
        # a new branch of the Hub starts as main, and may go anywhere
        if old is not None and head is not None and not forward:
            raise self._behind(old)
        tags, notes = self._tags(refs)
        wanted = refs | {ref: self.tip} | tags
        # nobody could fetch a name that cannot be tracked, or that looks like another one there
        check_ref_name(f"remotes/{self.name or DEFAULT}/{self.branch}")
        check_distinct(wanted.keys() - refs.keys(), refs)
        config = repository.config
        manifest = RemoteManifest(
            repository.base_id,
            config.hub_base,
            config.revision,
            self.branch if before is None else before.manifest.default,
            wanted,
        )
        if self.name is None and not self.dry_run:
            notes.append(f"no remote here is {there.url}: `memitvc remote add NAME {there.url}` makes one to pull from")
        here = {commit for commit in refs.values() if repository.has_commit(commit)}
        published = ancestors(here, repository.parents)
        listing = there.listing(revision) if before is None else before.listing
        late = self._late(listing, published) if self.constraints else []
        unfinished = self.branch == manifest.default and unfinished_path(head or "") in listing
        if refs == wanted and head is not None and not late and not unfinished:
            notes += self._remember(head, again=True)
            return Pushed(self._label, there.url, self.branch, old, self.tip, (), 0, {}, notes=tuple(notes))
        if before is None and MANIFEST in listing:
            raise RefMovedError(f"{there.url}: someone else pushed first", hint="Pull, then push again.")
        fresh = [c for c in reversed(repository.log([self.tip])) if c.id not in published]
        new = [c.id for c in fresh]
        adds = history_files(
            repository, [*late, *new], there, revision, listing, constraints=self.constraints, progress=self.progress
        )
        deletes: frozenset[str] = frozenset()
        if self.branch == manifest.default:
            extra, deletes, said = reader_files(
                repository, self.tip, there, revision, listing, adapter=self.adapter, progress=self.progress
            )
            adds |= extra
            notes += said
        adds[MANIFEST] = manifest.encode()
        request = None
        if not self.dry_run:
            subject = repository.commit(self.tip).subject
            sizes = sum(map(content_size, adds.values()))
            self.progress(f"send {count(len(adds), 'file')}, {size_text(sizes)}", 0, 0)
            made = there.publish(Change(subject or self.branch, adds, deletes), parent=revision)
            notes += there.remarks
            request = getattr(there, "pull_request", None)
            if not self.proposed:  # a pull request has moved no branch yet
                notes += self._remember(made)
        return Pushed(
            self._label,
            there.url,
            self.branch,
            old,
            self.tip,
            tuple(new),
            sum(path.startswith("objects/") for path in adds),
            {path: content_size(content) for path, content in adds.items()},
            tuple(sorted(deletes)),
            request,
            tuple(notes),
            sum(bool(c.parents) for c in fresh),
            {name.removeprefix("tags/"): commit for name, commit in tags.items() if name not in refs},
        )

    def _behind(self, old: CommitId) -> _BehindError:
        """The other end's branch is at `old`, which is not in this one's history: not yet, or no longer."""
        branch = self.branch
        if self._rewrote(old):
            return _BehindError(
                f"{self._label} has {branch} as it was here before its history was rewritten ({short(old)})",
                hint="Push this one as another branch (memitvc branch NAME, memitvc push "
                f"{self.name or 'REMOTE'} NAME), or go back to what is there (memitvc undo, or memitvc op log and "
                "memitvc op restore): history there only grows.",
            )
        name = self.name or "NAME"
        add = "" if self.name is not None else f"memitvc remote add NAME {self.there.url}, "
        return _BehindError(
            f"{self._label} has commits on {branch} that are not here ({short(old)})",
            hint=f"Pull first: {add}memitvc pull {name} {shlex.quote(branch)} (where both sides have moved on, then "
            f"memitvc merge {shlex.quote(f'{name}/{branch}')}), then push again.",
        )

    def _rewrote(self, old: CommitId) -> bool:
        """Whether a command here put another history in the place of `old`. What was only taken back can be pulled."""
        ref, repository = f"heads/{self.branch}", self.repository
        if not repository.has_commit(old):
            return False
        having = {old}
        for commit in reversed(repository.stored_commits()):  # parents first
            if not having.isdisjoint(repository.parents(commit)):
                having.add(commit)
        later = self.tip
        for operation in repository.operations():
            if operation.verb in ("undo", "redo") or operation.undone_by is not None:
                continue  # only what stands counts
            before, after = operation.refs_before.get(ref), operation.refs_after.get(ref)
            later = CommitId(after) if after else later
            if before in having and after not in having:
                return not is_ancestor(later, CommitId(before), repository.parents)
        return False

    def _late(self, listing: Mapping[str, RemoteFile], published: Collection[CommitId]) -> list[CommitId]:
        """Published commits of the branch whose constraints were left out when they were pushed."""
        blobs, known = self.repository.blobs, self.repository.patch_constraints()
        left_out = {
            patch
            for patch, blob in known.items()
            if blob is not None and object_path(blob) not in listing and blobs.has(blob)
        }
        if not left_out:
            return []
        commits = self.repository.log([self.tip])
        return [c.id for c in commits if c.id in published and not left_out.isdisjoint(c.patches)]

    def _tags(self, refs: Mapping[str, CommitId]) -> tuple[dict[str, CommitId], list[str]]:
        """The tags on the branch, and `tag`; tags that the other end has elsewhere stay as they are there."""
        reachable = ancestors([self.tip], self.repository.parents)
        local = self.repository.refs("tags/")
        found = {name: commit for name, commit in local.items() if commit in reachable}
        if self.tag is not None:
            name = f"tags/{self.tag}"
            check_ref_name(name)
            if local.get(name, self.tip) != self.tip:
                raise MemitVCError(
                    f"tag {self.tag!r} is at {short(local[name])}, not at {self.branch}'s tip",
                    hint="Choose another name: tags do not move. The tags on a branch are pushed with it anyway.",
                )
            if name not in local:
                check_one_meaning(name, self.repository.refs())
            found.setdefault(name, self.tip)
            if refs.get(name, found[name]) != found[name]:
                raise MemitVCError(
                    f"{self._label} has a tag {self.tag!r} already, at {short(refs[name])}",
                    hint="Choose another name: tags do not move. Nothing was sent.",
                )
        moved = [name for name, commit in found.items() if refs.get(name, commit) != commit]
        notes = [f"tag {name[5:]} is at {short(refs[name])} there; it stays" for name in moved]
        return {name: commit for name, commit in found.items() if name not in moved}, notes

    def _remember(self, revision: str | None, *, again: bool = False) -> list[str]:
        """Set the server's own tag; then the tracking ref, and a tag that is new here, in one operation.

        A note where nothing can be written here: what was published is there all the same.
        """
        if self.dry_run:
            return []
        notes = []
        if self.tag is not None and revision is not None:
            # published before: someone may have changed a file there since, and the tag stays on what was published
            try:
                self.there.tag(self.tag, revision, keep=again)
            except RemoteError as error:  # what was published stands, with its own tag
                notes.append(f"published, but without a tag of the server's own: {error.message}")
        local = self.repository.refs()
        wanted = {} if self.name is None else {f"remotes/{self.name}/{self.branch}": self.tip}
        if self.tag is not None and f"tags/{self.tag}" not in local:
            wanted[f"tags/{self.tag}"] = self.tip
        moved = [RefUpdate(ref, local.get(ref), commit) for ref, commit in wanted.items() if local.get(ref) != commit]
        try:
            self.repository.publish(verb="push", description=f"{self.branch} to {self._label}", refs=moved)
        except MemitVCError as error:
            notes.append(f"published, but not remembered here ({', '.join(sorted(wanted))}): {error.message}")
        return notes
