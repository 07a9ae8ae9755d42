"""A repository on the Hugging Face Hub as a remote: a push is one `create_commit`, with the parent to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from memit_vc.errors import RefMovedError, RemoteError
from memit_vc.remote.hub_errors import hub_errors, status_of, xet_status
from memit_vc.remote.hub_landed import CopySource, landed, listed, same_content
from memit_vc.remote.hub_quiet import quiet
from memit_vc.remote.hub_retry import passes, repeated
from memit_vc.remote.manifest import MANIFEST
from memit_vc.remote.protocol import Change, RemoteFile
from memit_vc.store.files import scratch

if TYPE_CHECKING:
    from huggingface_hub import HfApi


_T = TypeVar("_T")


@dataclass(frozen=True)
class HubChange(Change):
    """A change that also has the Hub copy large files from other repositories, without sending them through here."""

    copies: Mapping[str, CopySource] = field(default_factory=dict)


class HubRemote:
    """`repo_id` is owner/name; `branch` one of the Hub's branches.

    A repository that does not exist yet is made `private` or public; None leaves it to the user's settings there. With
    `create_pr` a publication becomes a pull request, whose address is then `pull_request`. The token is the client's:
    HF_TOKEN, or the one that `hf auth login` keeps; `endpoint` is HF_ENDPOINT's, unless given. The first call is the
    first request to the Hub.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        branch: str = "main",
        private: bool | None = None,
        create_pr: bool = False,
        endpoint: str | None = None,
    ) -> None:
        self.url = f"hf://{repo_id}" if branch == "main" else f"hf://{repo_id}@{branch}"
        self.repo_id, self.branch, self.private, self.create_pr = repo_id, branch, private, create_pr
        self.pull_request: str | None = None
        self._endpoint = endpoint
        self._client: HfApi | None = None
        self._listings: dict[str, dict[str, RemoteFile]] = {}
        self._start: str | None = None
        self._is_private: bool | None = None
        self._is_new = False

    @property
    def api(self) -> HfApi:
        """The client, made on first use."""
        if self._client is None:
            from huggingface_hub import HfApi

            from memit_vc import __version__

            self._client = HfApi(endpoint=self._endpoint, library_name="memit-vc", library_version=__version__)
        return self._client

    @property
    def remarks(self) -> Sequence[str]:
        if not self._is_new:
            return ()
        seen = "public" if self._is_private is False else "private"
        return (f"made a {seen} repository: {self.api.endpoint}/{self.repo_id}",)

    def head(self) -> str | None:
        """The commit that the branch points at. None if there is no such repository or branch yet."""
        return self._head(self.branch)

    def start(self) -> str | None:
        self._start = None if self.branch == "main" else self._head("main")
        return self._start

    def _head(self, branch: str) -> str | None:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        def ask() -> str | None:
            try:
                info = self.api.model_info(self.repo_id, revision=branch)
                self._is_private = info.private
                self._check_visibility()
                return info.sha
            except GatedRepoError:
                raise
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                # without a token the Hub answers 401 for a private repository and for none alike
                if error.response.status_code == 404:
                    return None
                raise

        return self._asked(ask, "reading the branch")

    def _check_visibility(self) -> None:
        """RemoteError if the repository is public and the user asked for a private one, or the other way round."""
        if None in (self.private, self._is_private) or self.private == self._is_private:
            return
        now, wanted = ("private", "--public") if self._is_private else ("public", "--private")
        raise RemoteError(
            f"{self.url}: is {now}, and {wanted} is only for a repository that a push makes; nothing was sent",
            hint=f"Push without {wanted}; the owner changes that at {self.api.endpoint}/{self.repo_id}/settings.",
        )

    def listing(self, revision: str | None) -> Mapping[str, RemoteFile]:
        """Every file; large ones with their SHA-256, which the Hub knows of them."""
        if revision is None:
            return {}
        if revision not in self._listings:
            self._listings[revision] = self._asked(
                lambda: listed(self.api, self.repo_id, revision), "listing the files"
            )
        return self._listings[revision]

    def read(self, path: str, revision: str | None, *, limit: int) -> bytes:
        """A small file's bytes; RemoteError if it is absent or larger than `limit`."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="memitvc-") as directory:
            target = Path(directory, "file")
            self.fetch(path, revision, target, limit=limit)
            return target.read_bytes()

    def fetch(self, path: str, revision: str | None, target: Path, *, limit: int) -> None:
        """Download to `target`. The Hub checks no hash on the way: the caller does."""
        file = self.listing(revision).get(path)
        if file is None:
            raise RemoteError(
                f"{self.url}: has no file {path}", hint="Push to it again: a file was not pushed, or was changed since."
            )
        self._check_size(path, file.size, limit)

        def ask() -> None:
            with quiet():
                found = self.api.hf_hub_download(self.repo_id, path, revision=revision, local_dir=beside)
            Path(found).replace(target)

        with scratch(target) as beside:
            self._asked(ask, f"downloading {path}", target=target)
        self._check_size(path, target.stat().st_size, limit)

    def _check_size(self, path: str, size: int, limit: int) -> None:
        if size > limit:
            raise RemoteError(
                f"{self.url}: {path} has {size:,} bytes, more than the {limit:,} that it may have",
                hint="Ask the person who pushed it: something other than memit-vc wrote there. Nothing was stored.",
            )

    def holds(self, path: str, revision: str | None, content: bytes | Path) -> bool:
        file = self.listing(revision).get(path)
        return file is not None and same_content(file, content)

    def publish(self, change: Change, *, parent: str | None) -> str:
        """One commit on the branch, or one pull request; a repository or branch that is not there yet is made."""
        with hub_errors(self.url, "pushing", writing=True):
            if parent is None:
                parent = self._made()
            elif parent == self._start:
                self._make_branch(parent)
            return self._publish(change, parent)

    def _publish(self, change: Change, parent: str) -> str:
        def once() -> str:
            try:
                return self._commit(change, parent)
            except Exception as error:
                if status_of(error) != 412 and not passes(error):
                    if xet_status(error) is not None:  # it says little: the refusal of the rights themselves says more
                        self.api.auth_check(self.repo_id, write=True)
                    raise
                # our commit may have been made although the answer was lost, or says otherwise
                where = None if self.create_pr else self.branch
                made = repeated(lambda: landed(self.api, self.repo_id, where, parent, change))
                if made is not None:
                    self.pull_request = made.pull_request
                    return made.commit
                # a pull request may stand on an older commit of its branch
                if status_of(error) == 412 or (not self.create_pr and self.head() != parent):
                    raise self._moved() from error
                raise

        return repeated(once)

    def _commit(self, change: Change, parent: str) -> str:
        with quiet():
            made = self.api.create_commit(
                self.repo_id,
                _operations(change),
                commit_message=change.message,
                revision=None if self.create_pr else self.branch,
                parent_commit=parent,
                create_pr=self.create_pr,
            )
        self.pull_request = made.pr_url
        return str(made.oid)

    def _moved(self) -> RefMovedError:
        return RefMovedError(
            f"{self.url}: someone else pushed to {self.branch} meanwhile; nothing was changed",
            hint="Run `memitvc pull` (or `memitvc fetch` and `memitvc merge`), then push again.",
        )

    def _made(self) -> str:
        """The first parent in a new repository or branch: both are made, unless someone else has just made them."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            repeated(lambda: self.api.create_repo(self.repo_id, private=self.private, exist_ok=True))
        except (HfHubHTTPError, KeyError) as error:
            # KeyError: a 409 without an address. 403: a user may push to a repository that he may not create
            if not isinstance(error, KeyError) and status_of(error) not in (403, 409):
                raise
            if self._asked(lambda: self.api.repo_exists(self.repo_id), "looking for the repository") is False:
                raise
        else:
            self._is_new = self.branch == "main"
        if self.branch != "main":
            self._make_branch(None)
        head = self.head()
        if head is None:
            raise RemoteError(f"{self.url}: was made but cannot be seen", hint="Try again in a minute.")
        if self.branch == "main" and MANIFEST in self.listing(head):
            raise self._moved()
        return head

    def _make_branch(self, start: str | None) -> None:
        """At `start`, by default at main. If someone else made it meanwhile, the commit finds that it moved."""
        repeated(lambda: self.api.create_branch(self.repo_id, branch=self.branch, revision=start, exist_ok=True))

    def tag(self, name: str, revision: str, *, keep: bool = False) -> None:
        """Put one of the Hub's tags on a revision. RemoteError if another revision has the name."""

        def ask() -> None:
            self.api.create_tag(self.repo_id, tag=name, revision=revision)

        try:
            self._asked(ask, f"tagging {name}", writing=True)
        except RemoteError as error:
            if status_of(error.__cause__ or error) != 409:
                raise
            if keep:
                return
            refs = self._asked(lambda: self.api.list_repo_refs(self.repo_id), "reading the tags")
            if {ref.name: ref.target_commit for ref in refs.tags}.get(name) == revision:
                return  # ours, made by a try whose answer was lost
            raise RemoteError(
                f"{self.url}: has a tag {name} already, on another revision", hint="Choose another name."
            ) from error

    def _asked(self, call: Callable[[], _T], doing: str, *, writing: bool = False, target: Path | None = None) -> _T:
        with hub_errors(self.url, doing, writing=writing, target=target):
            return repeated(call)


def _operations(change: Change) -> list[Any]:
    """Fresh for every try: the client keeps notes on them."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    copies = change.copies if isinstance(change, HubChange) else {}
    return [
        *(CommitOperationAdd(path, data) for path, data in change.adds.items()),
        *(CommitOperationCopy(s.path, path, s.revision, s.repo_id, "model") for path, s in copies.items()),
        *(CommitOperationDelete(path, is_folder=False) for path in sorted(change.deletes)),
    ]
