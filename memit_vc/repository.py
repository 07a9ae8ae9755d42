"""The repository: bytes before rows, one commit point, every change of refs an operation (docs/architecture.md,
"Where things are kept").
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from memit_vc.config import Config
from memit_vc.errors import IntegrityError, MemitVCError, NoRepositoryError, StorageError
from memit_vc.objects import (
    BaseManifest,
    BlobId,
    ColumnId,
    Commit,
    CommitId,
    EditableWeight,
    Fact,
    Patch,
    PatchId,
    RefUpdate,
    StateId,
    root_commit,
)
from memit_vc.progress import Progress, silent
from memit_vc.store import gc, publish, rows_history, rows_patches
from memit_vc.store.create import FORMAT, create
from memit_vc.store.database import BUSY_SECONDS, Database
from memit_vc.store.files import storage_errors, write_atomic
from memit_vc.store.fsck import CheckPatch, check
from memit_vc.store.ledger import Ledger
from memit_vc.store.migrate import upgrade_schema
from memit_vc.store.records import GcResult, KeptPatch, OperationRow, Problem
from memit_vc.vcs import revisions
from memit_vc.vcs.facts import LiveFact, live_fact_columns
from memit_vc.vcs.graph import ancestors, commits_between, newest_first
from memit_vc.vcs.refnames import check_ref_name
from memit_vc.vcs.selection import select_columns
from memit_vc.vcs.state import state_id

if TYPE_CHECKING:
    from memit_vc.hparams import MEMITHyperParams

__all__ = ["GcResult", "KeptPatch", "LiveFact", "OperationRow", "Problem", "Repository"]

DIRECTORY, CONFIG = ".memitvc", "config.toml"


class Repository(Ledger):
    """An open `.memitvc`. A context manager; `root` is `<directory>/.memitvc`.

    Methods that read raise IntegrityError for an id that is not stored and StorageError where the system refuses.
    """

    def __init__(self, root: Path, database: Database, config: Config) -> None:
        """Use `init` or `open`."""
        super().__init__(root, database)
        self.config = config
        self.hparams_path = root / "hparams.yaml"
        self._graph: tuple[dict[CommitId, tuple[CommitId, ...]], dict[CommitId, int]] | None = None

    @classmethod
    def init(
        cls,
        directory: Path,
        *,
        config: Config,
        manifest: BaseManifest,
        weights: Sequence[EditableWeight],
        files: Mapping[str, str],
        hparams: bytes,
        description: str,
    ) -> Repository:
        """Make `<directory>/.memitvc` with the root commit on branch main, whole or not at all, and open it.

        `files` maps the base's other files (config.json, tokenizer) to their SHA-256; `description` is the root's
        message. MemitVCError where `.memitvc` exists.
        """
        root = directory.absolute() / DIRECTORY
        create(
            root,
            config=config,
            manifest=manifest,
            weights=weights,
            files=files,
            hparams=hparams,
            first=root_commit(manifest.id, description),
            state_hash=lambda columns: state_id(manifest.id, columns),
        )
        return cls._at(root, BUSY_SECONDS)

    @classmethod
    def open(cls, start: Path, *, busy_seconds: float = BUSY_SECONDS) -> Repository:
        """The repository of `start` or of its nearest parent. NoRepositoryError where there is none."""
        return cls._at(cls.find(start), busy_seconds)

    @classmethod
    def find(cls, start: Path) -> Path:
        """The `.memitvc` of `start` or of its nearest parent, without opening it."""
        here = start.absolute()
        with storage_errors(here):
            for directory in (here, *here.parents):
                if (directory / DIRECTORY).is_dir():
                    return directory / DIRECTORY
        raise NoRepositoryError(
            f"there is no memit-vc repository in {here} or above it", hint="`memitvc init BASE` starts one."
        )

    @classmethod
    def upgrade(cls, start: Path) -> tuple[str, str, Path | None]:
        """Bring the database to this version's schema: (revision before, after, backup file)."""
        root = cls.find(start)
        _checked_config(root)
        database = Database(root / "meta.db")
        try:
            return upgrade_schema(database)
        finally:
            database.close()

    @classmethod
    def _at(cls, root: Path, busy_seconds: float) -> Repository:
        config = _checked_config(root)
        database = Database(root / "meta.db", busy_seconds=busy_seconds)
        try:
            return cls(root, database, config)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def hparams(self, given: str | None = None) -> MEMITHyperParams:
        """The hyperparameters in force: `.memitvc/hparams.yaml`, or the file or shipped name that was given."""
        from memit_vc.hparams import MEMITHyperParams

        return MEMITHyperParams.from_hparams(given if given is not None else self.hparams_path)

    def configure(self, change: Callable[[Config], Config]) -> None:
        """Change config.toml as it is now; what it says of other things stays."""
        path = self.root / CONFIG
        self.config = change(Config.load(path))
        with storage_errors(path):
            existing = path.read_bytes()
        write_atomic(path, self.config.dump(existing))

    def __enter__(self) -> Repository:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def resolve(self, revision: str) -> CommitId:
        """The commit that a revision names; RevisionError with suggestions, or with the candidates of a prefix."""
        return revisions.resolve(revision, self._names())

    def resolve_range(self, text: str) -> list[CommitId]:
        """ "A..B" (what B has and A has not, oldest first) or a single revision."""
        ends = revisions.split_range(text)
        if ends is None:
            return [self.resolve(text)]
        older, newer = (self.resolve(end) for end in ends)
        return commits_between(older, newer, self.parents, self.order)

    def _names(self) -> revisions.Names:
        return revisions.Names(
            head=lambda: self.head().commit,
            refs=self.refs,
            by_prefix=self._by_prefix,
            parents=self.parents,
            describe=lambda commit: self.commit(commit).subject,
        )

    def _by_prefix(self, prefix: str) -> list[CommitId]:
        with self._database.read() as connection:
            return rows_history.find_prefix(connection, prefix)

    def commit(self, id: CommitId) -> Commit:  # noqa: A002
        return self.commits([id])[id]

    def commits(self, ids: Collection[CommitId]) -> dict[CommitId, Commit]:
        """Several commits in one statement."""
        with self._database.read() as connection:
            return rows_history.load_commits(connection, ids)

    def has_commit(self, id: CommitId) -> bool:  # noqa: A002
        return bool(self.known_commits([id]))

    def known_commits(self, ids: Collection[CommitId]) -> set[CommitId]:
        """Those of `ids` that are stored."""
        with self._database.read() as connection:
            return rows_history.present(connection, ids)

    def parents(self, id: CommitId) -> tuple[CommitId, ...]:  # noqa: A002
        return self._known(id)[0][id]

    def order(self, commit: CommitId) -> int:
        """A number that is greater for a commit than for its parents."""
        return self._known(commit)[1][commit]

    def _known(self, commit: CommitId) -> tuple[dict[CommitId, tuple[CommitId, ...]], dict[CommitId, int]]:
        """The graph in memory. Commits never change, so it is read again only for one that it lacks."""
        if self._graph is None or commit not in self._graph[0]:
            with self._database.read() as connection:
                self._graph = rows_history.load_graph(connection)
            if commit not in self._graph[0]:
                raise IntegrityError(f"commit {commit[:10]} is not in this repository", hint="Run `memitvc fsck`.")
        return self._graph

    def log(self, tips: Sequence[CommitId], *, limit: int | None = None) -> list[Commit]:
        """Commits reachable from `tips`, newest first, children before parents."""
        walk = newest_first(tips, self.parents, self.order)
        ids = [commit for _, commit in zip(range(limit), walk, strict=False)] if limit is not None else list(walk)
        found = self.commits(ids)
        return [found[commit] for commit in ids]

    def stored_commits(self) -> list[CommitId]:
        """Every commit, newest first, also those that no ref reaches: `undo` can bring them back."""
        with self._database.read() as connection:
            order = rows_history.load_graph(connection)[1]
        return sorted(order, key=order.__getitem__, reverse=True)

    def state(self, id: CommitId) -> frozenset[ColumnId]:  # noqa: A002
        """The live columns at a commit."""
        return frozenset(self._state(id))

    def origins(self, id: CommitId) -> dict[ColumnId, CommitId]:  # noqa: A002
        """The live columns at a commit, each with the commit of its history that first brought it in: not the merge
        that joined it, nor the revert that put it back.
        """
        state = self._state(id)
        history = ancestors([id], self.parents)
        with self._database.read() as connection:
            bringers = rows_history.bringers(connection, state)
        return {
            column: min((c for c in bringers[column] if c in history), key=self.order, default=last)
            for column, last in state.items()
        }

    def _state(self, commit: CommitId) -> dict[ColumnId, CommitId]:
        self._known(commit)
        with self._database.read() as connection:
            return rows_history.load_state(connection, commit)

    def state_id(self, columns: Collection[ColumnId]) -> StateId:
        return state_id(self.base_id, columns)

    def commits_of_state(self, state: StateId) -> list[CommitId]:
        """The commits that have this state, oldest first."""
        with self._database.read() as connection:
            return rows_history.commits_of_state(connection, state)

    def live_facts(self, id: CommitId) -> list[LiveFact]:  # noqa: A002
        """The facts that are in the model at a commit, in the order of the commits that brought them, then position."""
        brought = self.origins(id)
        with self._database.read() as connection:
            positions = rows_patches.column_positions(connection, brought)
            facts = rows_patches.column_facts(connection, brought)
            order = {commit: self.order(commit) for commit in set(brought.values())}
            columns = sorted(brought, key=lambda c: (order[brought[c]], positions.get(c, 0), c))
            live = live_fact_columns(columns, facts)
            found = rows_patches.load_facts(connection, [fact for fact, _ in live])
        return [LiveFact(found[fact], column, brought[column]) for fact, column in live]

    def selection(self, columns: Collection[ColumnId]) -> dict[PatchId, tuple[int, ...]]:
        """The patches and positions that supply each column exactly once; () for a dense patch."""
        with self._database.read() as connection:
            layout, dense, _ = rows_patches.patches_holding(connection, columns)
        return select_columns(columns, layout, dense)

    def constraints_of(self, columns: Collection[ColumnId]) -> dict[PatchId, tuple[BlobId | None, tuple[int, ...]]]:
        """As `selection`, with each patch's constraints blob; patches that have one are preferred."""
        with self._database.read() as connection:
            layout, dense, constraints = rows_patches.patches_holding(connection, columns)
        preferred = {patch for patch, blob in constraints.items() if blob is not None}
        chosen = select_columns(columns, layout, dense, preferred)
        return {patch: (constraints[patch], positions) for patch, positions in chosen.items()}

    def publish(
        self,
        *,
        verb: str,
        description: str,
        commits: Sequence[Commit] = (),
        patches: Sequence[Patch] = (),
        facts: Sequence[Fact] = (),
        refs: Sequence[RefUpdate] = (),
        head: str | None = None,
        head_was: str | None = None,
        evaluations: Sequence[publish.Evaluation] = (),
        argv: Sequence[str] | None = None,
    ) -> int:
        """One transaction: rows, refs by compare-and-swap, HEAD ("heads/x" or a commit id), one operation row.

        `commits` come parents first. RefMovedError where a ref is no longer at its `old`, or HEAD, where `head_was` is
        given, no longer there; IntegrityError where a blob,
        parent or column is missing; then nothing is written. Returns the newest operation's number; no operation is
        written where neither refs nor HEAD change.
        """
        for change in refs:
            check_ref_name(change.name)
        if head is not None and head.startswith("heads/"):
            check_ref_name(head)
        with self._database.write() as connection:
            return publish.publish(
                connection,
                self.blobs,
                self.base_id,
                self.state_id,
                verb=verb,
                description=description,
                commits=commits,
                patches=patches,
                facts=facts,
                refs=refs,
                head=head,
                head_was=head_was,
                evaluations=evaluations,
                argv=argv,
            )

    def fsck(
        self, *, full: bool = True, check_patch: CheckPatch | None = None, progress: Progress = silent
    ) -> list[Problem]:
        """Everything that is wrong, each named; [] where all is well. Orphans are no problem, see `orphans`.

        `full` also hashes every object and recomputes every commit's state; `check_patch(path, patch)` looks inside.
        """
        with self._database.read() as connection:
            return list(
                check(
                    connection,
                    self.blobs,
                    self.base_id,
                    self.state_id,
                    full=full,
                    check_patch=check_patch,
                    progress=progress,
                )
            )

    def orphans(self) -> list[BlobId]:
        """Blobs that no row names: left by a crash, or by a command that is still computing. `gc` removes old ones."""
        with self._database.read() as connection:
            named = gc.referenced_blobs(connection)
        return [blob for blob in self.blobs.iterate() if blob not in named]

    def gc(
        self,
        *,
        keep_operations: int | None = None,
        grace: float = 3600.0,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> GcResult:
        """Remove what nobody can reach any more.

        With `keep_operations` None every operation stays, and with it all that `undo` and `restore` can bring back.
        With N the log is cut to its last N operations first. Blobs and temporary files younger than `grace` seconds
        stay. `dry_run` only counts.
        """
        with self._database.write() as connection:
            trial = connection.begin_nested()
            commits, operations = gc.drop_rows(connection, keep_operations)
            if dry_run:
                blobs, size, files = gc.sweep(connection, self.blobs, grace=grace, dry_run=True, progress=progress)
                trial.rollback()
                return GcResult(blobs, size, commits, operations, files)
            trial.commit()
        self._graph = None
        with self._database.write() as connection:
            blobs, size, files = gc.sweep(connection, self.blobs, grace=grace, dry_run=False, progress=progress)
        return GcResult(blobs, size, commits, operations, files)


def _checked_config(root: Path) -> Config:
    """config.toml of a repository whose format this version reads."""
    try:
        found = (root / "format").read_text().strip()
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{root} has no file `format`: it is not a whole repository", hint="Restore it from a backup."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{root / 'format'}: cannot be read: {error}", hint="Check the permissions.") from error
    if found != FORMAT:
        raise MemitVCError(
            f"{root} has format {found!r}; this version of memit-vc reads format {FORMAT}",
            hint="Upgrade memit-vc.",
        )
    return Config.load(root / CONFIG)
