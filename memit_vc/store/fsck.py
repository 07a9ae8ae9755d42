"""Check every row and every object against its name and against each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from memit_vc.errors import IntegrityError, MemitVCError
from memit_vc.objects import (
    BaseId,
    BaseManifest,
    BlobId,
    ColumnId,
    Commit,
    CommitId,
    EditableWeight,
    Fact,
    Patch,
    PatchHeader,
    PatchId,
    StateId,
    canonical_json,
    digest,
    is_sha256,
    short,
)
from memit_vc.progress import Progress, silent
from memit_vc.store.blobs import BlobStore
from memit_vc.store.fsck_journal import base_file_problems, journal_problems, lost_problems, record_problems
from memit_vc.store.journal import Journal
from memit_vc.store.lost import referenced_blobs
from memit_vc.store.parsed import BAD_JSON, parsed
from memit_vc.store.records import Problem
from memit_vc.store.rows_patches import WITHOUT_FACT, headers_without_facts, load_patches
from memit_vc.store.rows_refs import load_operations, load_refs, raw_head
from memit_vc.store.rows_results import measured
from memit_vc.store.schema import (
    changes,
    commit_patches,
    commits,
    evaluations,
    facts,
    kept,
    meta,
    operations,
    parents,
    patch_columns,
    patches,
    statistics,
)
from memit_vc.store.tensor_hashes import unsealed_hashes

CheckPatch = Callable[[Path, Patch], list[str]]


def check(
    connection: Connection,
    blobs: BlobStore,
    journal: Journal,
    base: BaseId,
    state_hash: Callable[[Collection[ColumnId]], StateId],
    *,
    quick: bool,
    check_patch: CheckPatch | None,
    progress: Progress = silent,
) -> Iterator[Problem]:
    """Problems as they are found. `quick` neither hashes objects nor recomputes states."""
    entries = journal.entries()  # before the rows: what a writer does in between is in them
    known: dict[CommitId, Commit | None] = {}
    stages = [
        _commit_rows(connection, known),
        _database(connection),
        journal_problems(connection, entries, known),
        lost_problems(connection, blobs, journal, entries),
        _base(connection, base),
        base_file_problems(blobs.root.parent, base),
        _evaluations(connection, _editable_names(connection)),
        _commits(connection, known, base),
        () if quick else record_problems(connection, blobs),
        () if quick else _states(connection, known, state_hash),
        _refs(connection, known),
        _operations(connection, known),
        _facts(connection),
        _patches(connection, blobs, base, check_patch),
        _blobs(connection, blobs, quick, progress),
    ]
    for stage in stages:
        try:
            yield from stage
        except DBAPIError as error:  # noqa: PERF203 - a damaged table must not hide what is wrong with the others
            yield Problem("database", "meta.db", str(error.orig))
        except MemitVCError as error:
            yield Problem("database", "meta.db", error.message.removeprefix("meta.db: "))
        except BAD_JSON as error:
            yield Problem("database", "meta.db", f"a row cannot be read: {type(error).__name__}: {error}")


def _editable_names(connection: Connection) -> set[str]:
    """What a state may have changed, as far as the records can be read: `_base` says where they cannot."""
    names: set[str] = set()
    rows = {row.key: row.value for row in connection.execute(select(meta))}
    with suppress(*BAD_JSON):  # of an adapter that `gc` has removed since
        names |= {tensor.name for tensor in BaseManifest.from_json(json.loads(rows["manifest"])).tensors}
    with suppress(*BAD_JSON):
        names |= {str(weight["name"]) for weight in json.loads(rows.get("weights", "[]"))}
    with suppress(MemitVCError):
        names |= {name for header in headers_without_facts(connection) for name in header.weights}
    return names


def _database(connection: Connection) -> Iterator[Problem]:
    for line in connection.execute(text("PRAGMA integrity_check")).scalars():
        if line != "ok":
            yield Problem("database", "meta.db", str(line))
    for row in connection.execute(text("PRAGMA foreign_key_check")):
        yield Problem(
            "database", "meta.db", f"row {row[1]} of table {row[0]} names a row of {row[2]} that is not there"
        )


def _base(connection: Connection, base: BaseId) -> Iterator[Problem]:
    """Manifest, editable weights and files of the base."""
    rows = {row.key: row.value for row in connection.execute(select(meta))}
    for key in ("manifest", "weights", "files"):
        if key not in rows:
            yield Problem("base", key, "the database has no such record")
    manifest: BaseManifest | None = None
    with suppress(*BAD_JSON):
        found = BaseManifest.from_json(json.loads(rows["manifest"]))
        manifest = found if found.id == base else None
    if manifest is None:
        yield Problem("base", "manifest", "the recorded tensors do not hash to the base's id")
        return
    try:
        weights = {weight.name: weight for weight in map(EditableWeight.from_json, json.loads(rows["weights"]))}
    except BAD_JSON:
        yield Problem("base", "weights", "the record of the editable weights cannot be read")
        return
    yield from _weights(connection, manifest, weights)
    known = False
    with suppress(*BAD_JSON):
        known = all(is_sha256(sha) for sha in json.loads(rows["files"]).values())
    if not known:
        yield Problem("base", "files", "the record of the base's other files cannot be read")


def _evaluations(connection: Connection, weights: set[str]) -> Iterator[Problem]:
    """Hashes of tensors that `verify` compares with: with their digest, each of a weight that can be edited. Of all
    other scores: whether they can be read and have the form of their kind. Of statistics: whether they can be read.
    """
    for row in connection.execute(select(evaluations).where(evaluations.c.kind != "tensors")):
        yield from _unreadable(row.state, measured, row)
    for row in connection.execute(select(statistics)):
        yield from _unreadable(row.id, parsed, "evaluation", row.id, row.json)
    statement = select(evaluations).where(evaluations.c.kind == "tensors")
    for row in connection.execute(statement):
        whole = False
        with suppress(*BAD_JSON):
            hashes = unsealed_hashes(StateId(row.state), json.loads(row.json))
            whole = all(name in weights and is_sha256(sha) for name, sha in hashes.items())
        if not whole:
            yield Problem("evaluation", row.state, "its recorded tensor hashes are damaged and count as absent")


def _unreadable(name: str, read: Callable[..., object], *given: object) -> Iterator[Problem]:
    try:
        read(*given)
    except MemitVCError as error:
        yield Problem("evaluation", name, error.message.removeprefix("meta.db: "))


def _weights(
    connection: Connection, manifest: BaseManifest, weights: Mapping[str, EditableWeight]
) -> Iterator[Problem]:
    tensors = {tensor.name: tensor for tensor in manifest.tensors}
    for name, weight in weights.items():
        tensor = tensors.get(name)
        shape = (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)
        if tensor is None or (tensor.dtype, tensor.shape) != (weight.dtype, shape):
            yield Problem("base", name, "its record as an editable weight differs from the tensor's")
    for row in connection.execute(select(patches.c.id, patches.c.header)):
        try:
            header = PatchHeader.from_json(json.loads(row.header))
        except BAD_JSON:
            continue  # reported with the patches
        try:
            described = {weight.name: weight for weight in header.described(manifest)}
        except ValueError as error:
            yield Problem("base", row.id, f"patch {row.id[:10]}: {error}")
            continue
        for name, form in header.weights.items():
            own = weights.get(name) or described.get(name)
            if own is not None and own != described.get(name, own):
                yield Problem("base", name, f"patch {row.id[:10]} describes it as another matrix")
            if own is None or (own.d_out, own.d_in, own.quantum) != (form.d_out, form.d_in, form.quantum):
                yield Problem("base", name, f"its record differs from patch {row.id[:10]}, which edits it")


def _commit_rows(connection: Connection, known: dict[CommitId, Commit | None]) -> Iterator[Problem]:
    """Put every commit into `known`, in the order of storing; None if its JSON cannot be read as one."""
    for row in connection.execute(select(commits.c.id, commits.c.json).order_by(commits.c.seq)):
        known[CommitId(row.id)] = None
        with suppress(MemitVCError):
            known[CommitId(row.id)] = parsed("commit", row.id, row.json, Commit.from_json)
    yield from ()


def _commits(connection: Connection, known: dict[CommitId, Commit | None], base: BaseId) -> Iterator[Problem]:
    rows = {row.id: row for row in connection.execute(select(commits))}
    graph: dict[str, list[str]] = {}
    for row in connection.execute(select(parents).order_by(parents.c.commit, parents.c.n)):
        listed = graph.setdefault(row.commit, [])
        listed.append(row.parent if row.n == len(listed) else "")
    changed: dict[str, dict[str, set[str]]] = {}
    for row in connection.execute(select(changes)):
        changed.setdefault(row.commit, {}).setdefault(row.change, set()).add(row.column)
    brought: dict[str, set[str]] = {}
    for row in connection.execute(select(commit_patches)):
        brought.setdefault(row.commit, set()).add(row.patch)
    supplied = set(connection.execute(select(patch_columns.c.column)).scalars())
    seen: set[str] = set()
    for identifier, commit in known.items():
        seen.add(identifier)
        row = rows[identifier]
        if commit is None or digest("commit", row.json.encode()) != identifier or commit.id != identifier:
            yield Problem("commit", identifier, "its record does not hash to its id")
            continue
        if commit.base != base:
            yield Problem("commit", identifier, f"belongs to base {short(commit.base)}, not to this repository's")
        if (row.kind, row.message, row.author, row.time) != (commit.kind, commit.message, commit.author, commit.time):
            yield Problem("commit", identifier, "its row differs from its record")
        if tuple(graph.get(identifier, ())) != commit.parents:
            yield Problem("commit", identifier, "its parents differ from its record")
        elif any(parent not in seen for parent in commit.parents):
            yield Problem("commit", identifier, "a parent was stored after it")
        found = changed.get(identifier, {})
        if found.get("add", set()) != set(commit.adds) or found.get("remove", set()) != set(commit.removes):
            yield Problem("commit", identifier, "its change of state differs from its record")
        if brought.get(identifier, set()) != set(commit.patches):
            yield Problem("commit", identifier, "its patches differ from its record")
        for column in sorted({*commit.adds, *commit.removes} - supplied):
            yield Problem("column", column, f"commit {short(identifier)} needs it, but no patch holds it")


def _states(
    connection: Connection,
    known: dict[CommitId, Commit | None],
    state_hash: Callable[[Collection[ColumnId]], StateId],
) -> Iterator[Problem]:
    recorded = {row.id: row.state for row in connection.execute(select(commits.c.id, commits.c.state))}
    uses: dict[CommitId, int] = {}
    for commit in known.values():
        if commit is not None and commit.parents:
            uses[commit.parents[0]] = uses.get(commit.parents[0], 0) + 1
    states: dict[CommitId, frozenset[ColumnId]] = {}
    for identifier, commit in known.items():
        if commit is None:
            continue
        state: frozenset[ColumnId] = frozenset()
        if commit.parents:
            first = commit.parents[0]
            if first not in states:
                continue  # a damaged parent, reported already
            state = states[first]
            uses[first] -= 1
            if not uses[first]:
                del states[first]
        state = (state - set(commit.removes)) | set(commit.adds)
        if uses.get(identifier):
            states[identifier] = state
        if state_hash(state) != recorded[identifier]:
            yield Problem("commit", identifier, "its recorded state differs from the one its history gives")


def _refs(connection: Connection, known: dict[CommitId, Commit | None]) -> Iterator[Problem]:
    refs = load_refs(connection)
    for name, commit in refs.items():
        if commit not in known:
            yield Problem("ref", name, f"points at {short(commit)}, which is not in this repository")
    head = raw_head(connection)
    if head not in refs and head not in known:
        yield Problem("head", "HEAD", f"points at {head}, which does not exist")
    for parent in connection.execute(select(kept.c.parent)).scalars():
        if parent not in known:
            yield Problem("patch", parent, "is the parent of a kept patch, but is not in this repository")


def _operations(connection: Connection, known: dict[CommitId, Commit | None]) -> Iterator[Problem]:
    for number in connection.execute(select(operations.c.id).order_by(operations.c.id)).scalars().all():
        try:
            (operation,) = load_operations(connection, only=number)
        except MemitVCError as error:
            yield Problem("operation", str(number), error.message.removeprefix("meta.db: "))
            continue
        named = {*operation.refs_before.values(), *operation.refs_after.values()}
        named.update(h for h in (operation.head_before, operation.head_after) if h and not h.startswith("heads/"))
        for commit in sorted(named - set(known)):
            yield Problem("operation", str(number), f"names commit {short(commit)}, which is not in this repository")


def _facts(connection: Connection) -> Iterator[Problem]:
    for row in connection.execute(select(facts)):
        try:
            fact = Fact.from_json(json.loads(row.json))
            whole = fact.id == row.id and digest("fact", row.json.encode()) == row.id
        except BAD_JSON:
            whole = False
        if not whole:
            yield Problem("fact", row.id, "its record does not hash to its id")
        elif (row.prompt, row.subject, row.target) != (fact.prompt, fact.subject, fact.target):
            yield Problem("fact", row.id, "its row differs from its record")
        elif fact.fault is not None:
            yield Problem("fact", row.id, fact.fault)


def _patches(
    connection: Connection, blobs: BlobStore, base: BaseId, check_patch: CheckPatch | None
) -> Iterator[Problem]:
    listed: dict[str, list[tuple[str | None, str]]] = {}
    statement = select(patch_columns).order_by(patch_columns.c.patch, patch_columns.c.position)
    for row in connection.execute(statement):
        columns = listed.setdefault(row.patch, [])
        columns.append((row.fact, row.role if row.position == len(columns) else ""))
    for row in connection.execute(select(patches)).all():
        try:
            header = PatchHeader.from_json(json.loads(row.header))
            canonical = canonical_json(header.to_json()).decode() == row.header
        except BAD_JSON:
            yield Problem("patch", row.id, "its header cannot be read")
            continue
        if not canonical or header.base != base or header.divisible == row.dense or row.size != len(header.columns):
            yield Problem("patch", row.id, "its row differs from its header")
        told: list[tuple[str | None, str]] = [(column.fact, column.role) for column in header.columns]
        if listed.get(row.id) != (told or [(None, WITHOUT_FACT)]):
            yield Problem("patch", row.id, "its columns differ from its header")
        try:
            whole = load_patches(connection, [PatchId(row.id)])[PatchId(row.id)]
        except MemitVCError as error:
            yield Problem("patch", row.id, error.message)
            continue
        if check_patch is not None and blobs.has(row.id):
            for message in check_patch(blobs.path(row.id), whole):
                yield Problem("patch", row.id, message)


def _blobs(connection: Connection, blobs: BlobStore, quick: bool, progress: Progress) -> Iterator[Problem]:
    named = _readable_references(connection)
    stored = set(blobs.iterate())
    for blob in sorted(named - stored):
        yield Problem("blob", blob, "is missing")
    if quick:
        return
    for number, blob in enumerate(sorted(stored), start=1):
        try:
            location = blobs.path(blob)
        except IntegrityError:
            if blob in named:
                yield Problem("blob", blob, "is missing")
            continue  # else gc has just removed it
        if not os.access(location, os.R_OK):
            yield Problem("blob", blob, f"cannot be read: {location}")
        elif not blobs.verify(blob) and blobs.has(blob):
            yield Problem("blob", blob, f"its bytes do not hash to its name: {location}")
        progress("checking objects", number, len(stored))


def _readable_references(connection: Connection) -> set[BlobId]:
    """As `referenced_blobs`; nothing if a damaged row, reported by then, stands in the way."""
    with suppress(MemitVCError, *BAD_JSON):
        return referenced_blobs(connection)
    return set()
