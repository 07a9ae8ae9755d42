"""The repository: bytes before rows, one commit point, every change of refs an operation (docs/architecture.md,
"Where things are kept").
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from memit_vc.config import Config
from memit_vc.errors import IntegrityError, LockedError, NoRepositoryError, StorageError
from memit_vc.objects import (
    BaseId,
    BaseManifest,
    BlobId,
    ColumnId,
    Commit,
    CommitId,
    EditableWeight,
    Fact,
    FactId,
    Head,
    JsonValue,
    Patch,
    PatchId,
    RefUpdate,
    StateId,
    StatisticsId,
    root_commit,
    utc_now,
)
from memit_vc.objects.base_record import BASE, BaseRecord
from memit_vc.objects.commit_record import KeptRecord
from memit_vc.progress import Progress, silent
from memit_vc.store import publish, rows_history, rows_kept, rows_patches, rows_records, rows_refs, rows_results, undo
from memit_vc.store.blobs import BlobStore, blob_id
from memit_vc.store.create import check_format, create
from memit_vc.store.database import BUSY_SECONDS, Database
from memit_vc.store.files import storage_errors, write_atomic
from memit_vc.store.fsck import CheckPatch, check
from memit_vc.store.journal import Journal
from memit_vc.store.locks import alone
from memit_vc.store.lost import Lost, find_lost, referenced_blobs
from memit_vc.store.migrate import check_revision, upgrade_schema
from memit_vc.store.parsed import parsed
from memit_vc.store.publish import Evaluation
from memit_vc.store.records import KeptPatch, OperationRow, Problem
from memit_vc.store.transaction import changing, newest_entry
from memit_vc.store.unfinished import store_records
from memit_vc.store.writing import UNFINISHED
from memit_vc.vcs import revisions
from memit_vc.vcs.facts import LiveFact, live_fact_columns
from memit_vc.vcs.graph import ancestors, commits_between, newest_first
from memit_vc.vcs.refnames import check_distinct, check_ref_name
from memit_vc.vcs.selection import select_columns
from memit_vc.vcs.state import state_id

if TYPE_CHECKING:
    from memit_vc.hparams import MEMITHyperParams

DIRECTORY, CONFIG = ".memitvc", "config.toml"
_T = TypeVar("_T")
_P = ParamSpec("_P")


class Repository:
    """An open `.memitvc`. A context manager; `root` is `<directory>/.memitvc`.

    Methods that read raise IntegrityError for an id that is not stored and StorageError if the system refuses.
    """

    def __init__(self, root: Path, database: Database, config: Config, *, damaged: bool) -> None:
        """Use `init` or `open`."""
        self.root = root
        self.directory = root.parent
        self.hparams_path = root / "hparams.yaml"
        self.config = config
        self.database = database
        self.blobs = BlobStore(root / "objects")
        self.journal = Journal(root / "journal", busy_seconds=database.busy_seconds)
        self._graph: tuple[dict[CommitId, tuple[CommitId, ...]], dict[CommitId, int]] | None = None
        self._sound: set[BlobId] = set()
        tail = self.journal.tail()  # before the rows: what a writer does in between is in them
        with database.read() as connection:
            check_revision(connection)
            self.base_id = BaseId(rows_refs.read_meta(connection, "base_id"))
            if not damaged:
                self.journal.compare(tail, newest_entry(connection))

    # open and close

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
        message. MemitVCError if `.memitvc` exists.
        """
        root = directory.absolute() / DIRECTORY
        described = BaseRecord(manifest, tuple(weights), dict(files))
        create(
            root,
            files={CONFIG: config.dump(), "hparams.yaml": hparams, BASE: described.encode()},
            base=described.rows(),
            first=root_commit(manifest.id, description),
            state=state_id(manifest.id, ()),
        )
        return cls._at(root, BUSY_SECONDS, damaged=False)

    @classmethod
    def open(cls, start: Path, *, busy_seconds: float = BUSY_SECONDS, damaged: bool = False) -> Repository:
        """The repository of `start` or of its nearest parent. NoRepositoryError if there is none.

        IntegrityError if its database is missing, cut or older than the journal. With `damaged`, for `fsck`, an older
        one is opened.
        """
        return cls._at(cls.find(start), busy_seconds, damaged=damaged)

    @classmethod
    def find(cls, start: Path) -> Path:
        """The `.memitvc` of `start` or of its nearest parent, without opening it."""
        here = start.absolute()
        with storage_errors(here):
            for directory in (here, *here.parents):
                if (directory / DIRECTORY).is_dir():
                    return directory / DIRECTORY
        raise NoRepositoryError(
            f"there is no memit-vc repository in {here} or above it", hint="Start one: `memitvc init BASE`."
        )

    @classmethod
    def upgrade(cls, start: Path) -> tuple[str, str, Path | None]:
        """Bring the database to this version's schema: (revision before, after, backup file)."""
        root = cls.find(start)
        check_format(root)
        database = Database(root / "meta.db")
        try:
            return upgrade_schema(database)
        finally:
            database.close()

    @classmethod
    def _at(cls, root: Path, busy_seconds: float, *, damaged: bool) -> Repository:
        check_format(root)
        config = Config.load(root / CONFIG)
        database = Database(root / "meta.db", busy_seconds=busy_seconds)
        try:
            return cls(root, database, config, damaged=damaged)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        self.blobs.close()
        self.database.close()

    def __enter__(self) -> Repository:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, query: Callable[Concatenate[Connection, _P], _T], *given: _P.args, **named: _P.kwargs) -> _T:
        with self.database.read() as connection:
            return query(connection, *given, **named)

    def _write(self, change: Callable[Concatenate[Connection, _P], _T], *given: _P.args, **named: _P.kwargs) -> _T:
        """For rows that can be computed again; all others go through `changing`."""
        with self.database.write() as connection:
            return change(connection, *given, **named)

    # settings and the base

    def hparams(self, given: str | None = None) -> MEMITHyperParams:
        """The hyperparameters in force: `.memitvc/hparams.yaml`, or the file or shipped name that was given."""
        from memit_vc.hparams import MEMITHyperParams

        return MEMITHyperParams.from_hparams(given if given is not None else self.hparams_path)

    def configure(self, change: Callable[[Config], Config]) -> None:
        """Change config.toml as it is now; what it says of other things stays."""
        path = self.root / CONFIG
        with alone(self.root, "config", self.database.busy_seconds, "another command is changing config.toml"):
            self.config = change(Config.load(path))
            with storage_errors(path):
                existing = path.read_bytes()
            write_atomic(path, self.config.dump(existing))

    def base(self) -> BaseManifest:
        """Every tensor of the base as `init` recorded it."""
        return self._about_base("manifest", BaseManifest.from_json)

    def weights(self) -> tuple[EditableWeight, ...]:
        """The weights that patches may touch: those that facts are written into, and those that the adapters here bring
        along.
        """
        recorded = self.fact_weights()
        return (*recorded, *self._read(rows_patches.more_weights, recorded, self.base))

    def fact_weights(self) -> tuple[EditableWeight, ...]:
        """The weights that facts are written into, as `init` recorded them."""
        return self._about_base("weights", lambda rows: tuple(map(EditableWeight.from_json, rows)))

    def base_files(self) -> dict[str, str]:
        """The base's other files (config.json, tokenizer): name → SHA-256."""
        return self._about_base("files", dict)

    def _about_base(self, key: str, parse: Callable[[Any], _T]) -> _T:
        return parsed("meta", key, self._read(rows_refs.read_meta, key), parse)

    # revisions and commits

    def resolve(self, revision: str) -> CommitId:
        """The commit that a revision names; RevisionError with suggestions, or with the candidates of a prefix."""
        names = revisions.Names(
            head=lambda: self.head().commit,
            refs=self.refs,
            by_prefix=lambda prefix: self._read(rows_history.find_prefix, prefix),
            parents=self.parents,
            describe=lambda commit: self.commit(commit).subject,
        )
        return revisions.resolve(revision, names)

    def resolve_range(self, text: str) -> list[CommitId]:
        """ "A..B" (what B has and A has not, oldest first) or a single revision."""
        ends = revisions.split_range(text)
        if ends is None:
            return [self.resolve(text)]
        older, newer = (self.resolve(end) for end in ends)
        return commits_between(older, newer, self.parents, self.order)

    def commit(self, id: CommitId) -> Commit:  # noqa: A002
        return self.commits([id])[id]

    def commits(self, ids: Collection[CommitId]) -> dict[CommitId, Commit]:
        """Several commits in one statement."""
        return self._read(rows_history.load_commits, ids)

    def has_commit(self, id: CommitId) -> bool:  # noqa: A002
        return bool(self.known_commits([id]))

    def known_commits(self, ids: Collection[CommitId]) -> set[CommitId]:
        """Those of `ids` that are stored."""
        return self._read(rows_history.present, ids)

    def parents(self, id: CommitId) -> tuple[CommitId, ...]:  # noqa: A002
        return self._known(id)[0][id]

    def order(self, commit: CommitId) -> int:
        """A number that is greater for a commit than for its parents."""
        return self._known(commit)[1][commit]

    def _known(self, commit: CommitId) -> tuple[dict[CommitId, tuple[CommitId, ...]], dict[CommitId, int]]:
        """The graph in memory. Commits never change, so it is read again only for one that it lacks."""
        if self._graph is None or commit not in self._graph[0]:
            self._graph = self._read(rows_history.load_graph)
            if commit not in self._graph[0]:
                raise IntegrityError(f"commit {commit[:10]} is not in this repository", hint="Run `memitvc fsck`.")
        return self._graph

    def forget_graph(self) -> None:
        """Commits were removed: what is known of them in memory goes too."""
        self._graph = None

    def log(self, tips: Sequence[CommitId], *, limit: int | None = None) -> list[Commit]:
        """Commits reachable from `tips`, newest first, children before parents."""
        walk = newest_first(tips, self.parents, self.order)
        ids = [commit for _, commit in zip(range(limit), walk, strict=False)] if limit is not None else list(walk)
        found = self.commits(ids)
        return [found[commit] for commit in ids]

    def stored_commits(self) -> list[CommitId]:
        """Every commit, newest first, also those that no ref reaches: `undo` can bring them back."""
        _, order = self._read(rows_history.load_graph)
        return sorted(order, key=order.__getitem__, reverse=True)

    # states

    def state(self, id: CommitId) -> frozenset[ColumnId]:  # noqa: A002
        """The live columns at a commit."""
        return frozenset(self._state(id))

    def origins(self, id: CommitId) -> dict[ColumnId, CommitId]:  # noqa: A002
        """The live columns at a commit, each with the commit of its history that first brought it in: not the merge
        that joined it, nor the revert that put it back.
        """
        state = self._state(id)
        history = ancestors([id], self.parents)
        bringers = self._read(rows_history.bringers, state)
        return {
            column: min((c for c in bringers[column] if c in history), key=self.order, default=last)
            for column, last in state.items()
        }

    def _state(self, commit: CommitId) -> dict[ColumnId, CommitId]:
        self._known(commit)
        return self._read(rows_history.load_state, commit)

    def state_id(self, columns: Collection[ColumnId]) -> StateId:
        return state_id(self.base_id, columns)

    def recorded_states(self) -> dict[CommitId, StateId]:
        """The state of every commit, oldest first, as it was recorded with the commit; `fsck` computes them again."""
        return self._read(rows_history.recorded_states)

    def commits_of_state(self, state: StateId) -> list[CommitId]:
        """The commits that have this state, oldest first."""
        return self._read(rows_history.commits_of_state, state)

    def live_facts(self, id: CommitId) -> list[LiveFact]:  # noqa: A002
        """The facts that are in the model at a commit, in the order of the commits that brought them, then position."""
        brought = self.origins(id)
        order = {commit: self.order(commit) for commit in set(brought.values())}
        with self.database.read() as connection:
            positions = rows_patches.column_positions(connection, brought)
            facts = rows_patches.column_facts(connection, brought)
            columns = sorted(brought, key=lambda c: (order[brought[c]], positions.get(c, 0), c))
            live = live_fact_columns(columns, facts)
            found = rows_patches.load_facts(connection, [fact for fact, _ in live])
        return [LiveFact(found[fact], column, brought[column]) for fact, column in live]

    def selection(self, columns: Collection[ColumnId]) -> dict[PatchId, tuple[int, ...]]:
        """The patches and positions that supply each column exactly once; () for a dense patch."""
        layout, dense, _ = self._read(rows_patches.patches_holding, columns)
        return select_columns(columns, layout, dense)

    def selections(
        self, sets: Mapping[CommitId, Collection[ColumnId]]
    ) -> dict[CommitId, dict[PatchId, tuple[int, ...]]]:
        """`selection` of several sets of columns, read together."""
        layout, dense, _ = self._read(rows_patches.patches_holding, {c for columns in sets.values() for c in columns})
        holders: dict[ColumnId, list[PatchId]] = {}
        for patch, held in layout.items():
            for column in held:
                holders.setdefault(column, []).append(patch)
        touched = {name: {p for c in columns for p in holders.get(c, ())} for name, columns in sets.items()}
        return {
            name: select_columns(columns, {patch: layout[patch] for patch in touched[name]}, dense)
            for name, columns in sets.items()
        }

    def constraints_of(self, columns: Collection[ColumnId]) -> dict[PatchId, tuple[BlobId | None, tuple[int, ...]]]:
        """As `selection`, with each patch's constraints blob; patches that have one are preferred."""
        layout, dense, constraints = self._read(rows_patches.patches_holding, columns)
        preferred = {patch for patch, blob in constraints.items() if blob is not None}
        chosen = select_columns(columns, layout, dense, preferred)
        return {patch: (constraints[patch], positions) for patch, positions in chosen.items()}

    # facts and patches

    def fact(self, id: FactId) -> Fact:  # noqa: A002
        return self.facts([id])[id]

    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]:
        """Several facts in one statement."""
        return self._read(rows_patches.load_facts, ids)

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]:
        """(fact, role) of each column; several for a dense patch."""
        return self._read(rows_patches.column_facts, columns)

    def known_columns(self, columns: Collection[ColumnId]) -> set[ColumnId]:
        """Those of `columns` that some patch supplies."""
        return self._read(rows_patches.known_columns, columns)

    def bounds(self, columns: Collection[ColumnId]) -> dict[str, float]:
        """Per weight, the sum of the columns' bounds in grid units; weights that no column touches are left out."""
        return self._read(rows_patches.sum_bounds, columns)

    def edited_weights(self) -> set[str]:
        """The weights that any patch of this repository touches, live or not."""
        return self._read(rows_patches.edited_weights)

    def patch(self, id: PatchId) -> Patch:  # noqa: A002
        return self.patches([id])[id]

    def patches(self, ids: Collection[PatchId]) -> dict[PatchId, Patch]:
        """Several patches in a few statements. IntegrityError if one is not here."""
        return self._read(rows_patches.load_patches, ids)

    def known_patches(self, ids: Collection[PatchId]) -> set[PatchId]:
        """Those of `ids` that are recorded here."""
        return self._read(rows_patches.known_patches, ids)

    def patch_constraints(self) -> dict[PatchId, BlobId | None]:
        """Every patch that is recorded here, with its constraints blob if it came with one."""
        return self._read(rows_patches.all_constraints)

    def patch_path(self, id: PatchId) -> Path:  # noqa: A002
        """The patch's safetensors file; as `object_path`."""
        return self.object_path(BlobId(id))

    def object_path(self, blob: BlobId) -> Path:
        """The file of a patch or of constraints, whose bytes were seen to hash to its name; IntegrityError otherwise.

        Weights are computed from it, and nothing later would notice. Each is hashed once per opened repository.
        """
        if blob not in self._sound:
            self.blobs.path(blob)
            if not self.blobs.verify(blob):
                self.blobs.read(blob)
            self._sound.add(blob)
        return self.blobs.path(blob)

    # refs and operations

    def head(self) -> Head:
        return self._read(rows_refs.load_head)

    def refs(self, prefix: str = "") -> dict[str, CommitId]:
        """Full name → commit, sorted by name; `prefix` "heads/" gives the branches."""
        return self._read(rows_refs.load_refs, prefix)

    def operations(self, limit: int | None = None) -> list[OperationRow]:
        """The operation log, newest first."""
        return self._read(rows_refs.load_operations, limit=limit)

    def undo(self) -> OperationRow:
        """Put refs and HEAD back to where they were before the newest operation that stands: each goes further back.

        It is an operation itself, and returned. UsageError if only `init` is left.
        """
        with changing(self.database, self.journal) as (connection, did):
            return undo.undo(connection, did)

    def redo(self) -> OperationRow:
        """Take the last undo back that was not taken back yet; an operation itself, and returned. UsageError if there
        is none, or another operation followed it.
        """
        with changing(self.database, self.journal) as (connection, did):
            return undo.redo(connection, did)

    def restore(self, operation: int) -> OperationRow:
        """Put refs and HEAD back to where they were after an operation; an operation itself, which is returned.

        RevisionError if there is no such operation. If nothing would change, the newest operation is returned.
        """
        with changing(self.database, self.journal) as (connection, did):
            return undo.restore(connection, did, operation)

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
        evaluations: Sequence[Evaluation] = (),
    ) -> int:
        """One transaction: rows, refs by compare-and-swap, HEAD ("heads/x" or a commit id), one operation row.

        `commits` come parents first. RefMovedError if a ref is no longer at its `old`, or HEAD, if `head_was` is
        given, no longer there; IntegrityError if a blob, parent or column is missing; then nothing is written.
        Returns the newest operation's number; no operation is written if neither refs nor HEAD change.
        """
        branch = [head] if head is not None and head.startswith("heads/") else []
        for name in [*(change.name for change in refs), *branch]:
            check_ref_name(name)
        with ExitStack() as stack, changing(self.database, self.journal) as (connection, did):
            records = rows_records.NewRecords(connection, evaluations)
            with rows_refs.logged(connection, did, verb=verb, description=description):
                # the compare-and-swap comes first: whoever lost the race should hear of that, not of a missing parent
                publish.check_unmoved(connection, refs, head_was)
                new = [change.name for change in refs if change.old is None]
                check_distinct(new, rows_refs.load_refs(connection) if new else ())
                late = publish.insert_patches(connection, self.blobs, self.base_id, patches, facts)
                publish.insert_commits(connection, self.blobs, self.base_id, self.state_id, commits, records.of)
                publish.move(connection, refs, head)
                for evaluation in evaluations:
                    rows_results.replace_evaluation(connection, *evaluation)
            if late:
                did["constraints"] = {str(patch): blob for patch, blob in late.items()}
            if records.data:
                did["commits"] = records.named
                store_records(stack, self.root / UNFINISHED, self.blobs, list(records.data.values()))
            return rows_refs.latest_operation(connection)

    # measurements and patches that wait for their branch

    def evaluations(self, state: StateId, kind: str | None = None) -> dict[tuple[str, str], JsonValue]:
        """What was measured on a state: (kind, key) → value."""
        return self._read(rows_results.load_evaluations, state, kind)

    def evaluations_of(self, commits: Collection[CommitId], kind: str) -> dict[CommitId, JsonValue]:
        """What of a kind is recorded under commits' own ids: commit → value."""
        return self._read(rows_results.load_evaluations_of, commits, kind)

    def evaluations_by_state(self, kind: str) -> dict[StateId, dict[str, JsonValue]]:
        """Everything of a kind: state → key → value."""
        return self._read(rows_results.load_evaluations_by_state, kind)

    def put_evaluation(self, state: StateId, commit: CommitId | None, kind: str, key: str, value: JsonValue) -> None:
        """As `put_evaluations`, for one."""
        self.put_evaluations([(state, commit, kind, key, value)])

    def put_evaluations(self, rows: Sequence[Evaluation]) -> None:
        """Remember measurements, in place of earlier ones of the same state, kind and key.

        They only save work. So they are not kept if the system refuses or another process is writing.
        """
        with suppress(StorageError, LockedError), self.database.write(patience=1.0) as connection:
            for row in rows:
                rows_results.replace_evaluation(connection, *row)

    def forget_evaluation(self, state: StateId, kind: str, key: str) -> None:
        """Take a measurement back, if there is one."""
        self._write(rows_results.forget_evaluation, state, kind, key)

    def statistics(self) -> dict[StatisticsId, JsonValue]:
        """The statistics that are complete, oldest first; their tensors lie in `statistics/<id>/`."""
        return self._read(rows_results.load_statistics)

    def put_statistics(self, id: StatisticsId, value: JsonValue) -> None:  # noqa: A002
        """Record that statistics are complete; call it after their files are durable."""
        self._write(rows_results.replace_statistics, id, value)

    def keep_patch(
        self, patch: Patch, facts: Sequence[Fact], *, parent: CommitId, message: str, details: JsonValue
    ) -> None:
        """Keep a patch whose branch moved while it was computed. It survives gc until it is committed for good: an
        `undo` of its commit makes it a kept one again.
        """
        kept = KeptRecord(patch.id, patch.constraints, tuple(facts), parent, message, details, utc_now())
        with ExitStack() as stack, changing(self.database, self.journal) as (connection, did):
            late = publish.insert_patches(connection, self.blobs, self.base_id, [patch], facts)
            if late:
                did["constraints"] = {str(patch): blob for patch, blob in late.items()}
            store_records(stack, self.root / UNFINISHED, self.blobs, [kept.encode()])
            rows_kept.insert_kept(connection, kept, blob_id(kept.encode()))
            did["kept"] = {patch.id: blob_id(kept.encode())}

    def kept(self, id: PatchId) -> KeptPatch:  # noqa: A002
        """RevisionError if no such patch is kept."""
        return self._read(rows_kept.load_kept, id)

    def kept_patches(self, *, everything: bool = False) -> list[PatchId]:
        """Those that wait for a commit, oldest first; with `everything` also those that some ref has a commit of."""
        return self._read(rows_kept.waiting, everything=everything)

    def drop_kept(self, id: PatchId) -> None:  # noqa: A002
        """Give a kept patch up: the next gc removes it."""
        with changing(self.database, self.journal) as (connection, did):
            rows_kept.delete_kept(connection, [id])
            did["dropped"] = [id]

    # checks

    def fsck(
        self, *, quick: bool = False, check_patch: CheckPatch | None = None, progress: Progress = silent
    ) -> list[Problem]:
        """Everything that is wrong, each named; [] if all is well. Orphans are no problem, see `orphans`.

        `quick` neither hashes objects nor recomputes the commits' states; `check_patch(path, patch)` looks inside.
        """
        with self.database.read() as connection:
            found = check(
                connection,
                self.blobs,
                self.journal,
                self.base_id,
                self.state_id,
                quick=quick,
                check_patch=check_patch,
                progress=progress,
            )
            return list(found)

    def orphans(self) -> list[BlobId]:
        """Blobs that no row names: left by a crash, or by a command that is still computing. `gc` removes old ones."""
        named = self._read(referenced_blobs) | self.lost().needed
        return [blob for blob in self.blobs.iterate() if blob not in named]

    def lost(self) -> Lost:
        """Commits that are no longer in the database, and what they need."""
        return self._read(find_lost, self.blobs, self.journal)

    def missing_objects(self) -> list[BlobId]:
        """Objects that rows name and that are not here or damaged, sorted: deleted by hand, or lost with a disk."""
        return sorted(blob for blob in self._read(referenced_blobs) if not self.blobs.verify(blob))
