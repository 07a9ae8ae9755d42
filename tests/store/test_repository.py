"""The repository as its users see it, with synthetic patches."""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from memit_vc.errors import IntegrityError, MemitVCError, NoRepositoryError, RefMovedError, RevisionError, UsageError
from memit_vc.objects import CommitId, RefUpdate, StatisticsId
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from tests.support.synthetic import EDITABLE, MANIFEST, fact, init, put_patch, record, travelling


def test_a_new_repository_is_on_main_at_the_root(plain_repository: Repository) -> None:
    head = plain_repository.head()
    assert head.branch == "main"
    assert plain_repository.commit(head.commit).kind == "root"
    assert plain_repository.refs() == {"heads/main": head.commit}
    assert plain_repository.state(head.commit) == frozenset()
    assert plain_repository.base().id == MANIFEST.id == plain_repository.base_id
    assert plain_repository.weights() == EDITABLE
    assert plain_repository.base_files() == {"config.json": "0" * 64}
    assert plain_repository.hparams_path.read_bytes() == b"alg_name: MEMIT\n"
    assert [o.verb for o in plain_repository.operations()] == ["init"]


def test_two_repositories_on_one_base_share_their_root(tmp_path: Path) -> None:
    with init(tmp_path / "a") as a, init(tmp_path / "b") as b:
        assert a.head() == b.head()


def test_init_refuses_what_is_there(tmp_path: Path) -> None:
    init(tmp_path).close()
    with pytest.raises(MemitVCError, match="holds a repository"):
        init(tmp_path)
    other = tmp_path / "other"
    (other / ".memitvc").mkdir(parents=True)
    with pytest.raises(MemitVCError, match="not a repository"):
        init(other)


def test_open_looks_in_the_parents(tmp_path: Path) -> None:
    init(tmp_path).close()
    below = tmp_path / "x" / "y"
    below.mkdir(parents=True)
    with Repository.open(below) as repository:
        assert repository.directory == tmp_path
        assert repository.fsck() == []


def test_open_without_a_repository(tmp_path: Path) -> None:
    with pytest.raises(NoRepositoryError):
        Repository.open(tmp_path)


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    init(tmp_path).close()
    (tmp_path / ".memitvc" / "format").write_text("3\n")
    with pytest.raises(MemitVCError, match="format '3'") as caught:
        Repository.open(tmp_path)
    assert "Upgrade memit-vc" in str(caught.value.hint)


def test_state_and_live_facts_follow_the_history(plain_repository: Repository) -> None:
    repository = plain_repository
    first = record(repository, [fact(1), fact(2)])
    second = record(repository, [fact(3)])
    assert repository.state(first.id) == set(first.adds)
    assert repository.state(second.id) == {*first.adds, *second.adds}
    assert [(e.fact, e.commit) for e in repository.live_facts(second.id)] == [
        (fact(1), first.id),
        (fact(2), first.id),
        (fact(3), second.id),
    ]
    reverted = record(repository, removes=first.adds, kind="revert")
    assert repository.state(reverted.id) == set(second.adds)
    assert [e.fact for e in repository.live_facts(reverted.id)] == [fact(3)]
    restored = record(repository, kind="revert", patch=repository.patch(first.patches[0]))
    assert repository.state(restored.id) == repository.state(second.id)
    assert [e.commit for e in repository.live_facts(restored.id)] == [first.id, first.id, second.id]
    assert repository.commits_of_state(repository.state_id(repository.state(second.id))) == [second.id, restored.id]


def test_live_facts_keep_the_order_of_the_batch(plain_repository: Repository) -> None:
    facts = [fact(n) for n in range(30, 0, -1)]
    made = record(plain_repository, facts)
    assert [e.fact for e in plain_repository.live_facts(made.id)] == facts


def test_a_cancelled_fact_is_not_live(plain_repository: Repository) -> None:
    record(plain_repository, [fact(1), fact(2)])
    cancel = put_patch(plain_repository, [fact(1)], role="cancel")
    made = record(plain_repository, [fact(1)], patch=cancel, kind="revert")
    assert [e.fact for e in plain_repository.live_facts(made.id)] == [fact(2)]
    assert len(plain_repository.state(made.id)) == 3


def test_a_dense_patch_is_one_column_with_all_its_facts(plain_repository: Repository) -> None:
    dense = put_patch(plain_repository, [fact(1), fact(2), fact(3)], dense=True)
    made = record(plain_repository, [fact(n) for n in (1, 2, 3)], patch=dense)
    (column,) = plain_repository.state(made.id)
    assert plain_repository.selection([column]) == {dense.id: ()}
    assert plain_repository.column_facts([column]) == {column: [(fact(n).id, "edit") for n in (1, 2, 3)]}
    assert [(e.fact, e.column) for e in plain_repository.live_facts(made.id)] == [(fact(n), column) for n in (1, 2, 3)]
    assert plain_repository.patch(dense.id) == dense


def test_patches_come_back_as_they_went_in(plain_repository: Repository) -> None:
    patch = put_patch(plain_repository, [fact(1), fact(2)])
    record(plain_repository, [fact(1), fact(2)], patch=patch)
    assert plain_repository.patch(patch.id) == patch
    assert plain_repository.patch_path(patch.id).read_bytes()[8:9] == b"{"
    sums = plain_repository.bounds(patch.columns)
    assert sums == {name: sum(values) for name, values in sorted(patch.bounds.items())}
    assert plain_repository.bounds([]) == {}


def test_selection_prefers_a_patch_that_is_wholly_used(plain_repository: Repository) -> None:
    repository = plain_repository
    one, two = record(repository, [fact(1)]), record(repository, [fact(2)])
    both = put_patch(repository, [fact(1), fact(2)], constraints=False)
    squash = record(repository, [fact(1), fact(2)], patch=both, removes=(), branch="squashed")
    columns = [*one.adds, *two.adds]
    assert set(columns) == set(squash.adds)
    assert repository.selection(columns) == {both.id: (0, 1)}
    assert repository.selection(one.adds) == {one.patches[0]: (0,)}
    # re-solving needs keys and targets: there the patches that have them go first
    found = repository.constraints_of(columns)
    assert {patch: positions for patch, (_, positions) in found.items()} == {c.patches[0]: (0,) for c in (one, two)}
    assert all(blob is not None for blob, _ in found.values())


def test_unknown_ids_are_integrity_errors(plain_repository: Repository) -> None:
    with pytest.raises(IntegrityError, match="commit ffff"):
        plain_repository.commit(CommitId("f" * 64))
    with pytest.raises(IntegrityError, match="commit ffff"):
        plain_repository.state(CommitId("f" * 64))
    with pytest.raises(IntegrityError, match="no patch"):
        plain_repository.selection(["e" * 64])  # type: ignore[list-item]
    with pytest.raises(IntegrityError, match="fact eeee"):
        plain_repository.fact("e" * 64)  # type: ignore[arg-type]


def test_a_moved_ref_rolls_everything_back(plain_repository: Repository) -> None:
    repository = plain_repository
    root = repository.head().commit
    record(repository, [fact(1)])
    late = put_patch(repository, [fact(2)])
    made = dataclasses.replace(
        repository.commit(repository.head().commit),
        parents=(root,),
        adds=late.columns,
        patches=(late.id,),
        message="late",
    )
    before = repository.operations()
    with pytest.raises(RefMovedError, match="heads/main"):
        repository.publish(
            verb="commit",
            description="late",
            commits=[made],
            patches=[late],
            facts=[fact(2)],
            refs=[RefUpdate("heads/main", root, made.id)],
        )
    assert repository.operations() == before
    assert not repository.has_commit(made.id)
    with pytest.raises(IntegrityError):
        repository.patch(late.id)
    repository.keep_patch(late, [fact(2)], parent=root, message="late", details={"facts": 1})
    assert repository.kept_patches() == [late.id]
    assert repository.kept(late.id).patch == late
    assert collect_garbage(repository, grace=0).blobs == 0
    record(repository, [fact(2)], patch=late)
    assert repository.kept_patches() == []


def test_publish_refuses_what_is_not_there(plain_repository: Repository) -> None:
    repository = plain_repository
    root = repository.head().commit
    patch = put_patch(repository, [fact(1)])
    good = dataclasses.replace(
        repository.commit(root), parents=(root,), adds=patch.columns, patches=(patch.id,), kind="commit", message="x"
    )
    ghost = CommitId("d" * 64)
    wrong = [
        dataclasses.replace(good, parents=(ghost,)),
        dataclasses.replace(good, adds=("c" * 64,)),
        dataclasses.replace(good, removes=good.adds),
        dataclasses.replace(good, adds=(), removes=good.adds),  # not in its parent's state
        dataclasses.replace(good, parents=(root, root)),
        dataclasses.replace(good, base="b" * 64),
        dataclasses.replace(good, provenance="a" * 64),
    ]
    for commit in wrong:
        with pytest.raises(IntegrityError):
            repository.publish(verb="x", description="x", commits=[commit], patches=[patch], facts=[fact(1)])
    with pytest.raises(IntegrityError):
        repository.publish(verb="x", description="x", refs=[RefUpdate("heads/y", None, ghost)])
    with pytest.raises(IntegrityError):
        repository.publish(
            verb="x", description="x", patches=[dataclasses.replace(patch, id="9" * 64)], facts=[fact(1)]
        )
    with pytest.raises(RefMovedError, match="HEAD would be on branch 'main', which is gone"):
        repository.publish(verb="x", description="x", refs=[RefUpdate("heads/main", root, None)])
    with pytest.raises(UsageError):
        repository.publish(verb="x", description="x", refs=[RefUpdate("heads/a b", None, root)])
    assert len(repository.operations()) == 1


def test_publishing_twice_changes_nothing(plain_repository: Repository) -> None:
    repository = plain_repository
    made = record(repository, [fact(1)])
    patch = repository.patch(made.patches[0])
    newest = repository.operations()[0].id
    again = repository.publish(verb="pull", description="x", commits=[made], patches=[patch], facts=[fact(1)])
    assert again == newest == repository.operations()[0].id


def test_undo_is_an_operation_that_redo_takes_back(plain_repository: Repository) -> None:
    repository = plain_repository
    root = repository.head().commit
    made = record(repository, [fact(1)])
    repository.publish(
        verb="branch", description="new", refs=[RefUpdate("heads/side", None, made.id)], head="heads/side"
    )
    assert repository.head().branch == "side"
    undone = repository.undo()
    assert undone.verb == "undo"
    assert repository.head().branch == "main"
    assert "heads/side" not in repository.refs()
    assert undone.description == "undo operation 3: branch: new"
    assert repository.operations()[1].undone_by == undone.id
    assert repository.redo().description == "redo operation 3: branch: new"
    assert repository.head().branch == "side"
    assert repository.operations()[2].undone_by is None
    assert repository.undo().description == "undo operation 3: branch: new"
    assert repository.redo().description == "redo operation 3: branch: new"
    repository.restore(1)
    assert repository.refs() == {"heads/main": root}
    repository.restore(2)
    assert repository.refs() == {"heads/main": made.id}
    assert repository.restore(2).id == repository.operations()[0].id
    with pytest.raises(RevisionError, match="no operation 99"):
        repository.restore(99)


def test_init_cannot_be_undone(plain_repository: Repository) -> None:
    with pytest.raises(UsageError, match="nothing to undo"):
        plain_repository.undo()


def test_a_detached_head(plain_repository: Repository) -> None:
    repository = plain_repository
    root = repository.head().commit
    made = record(repository, [fact(1)])
    repository.publish(verb="switch", description="detach", head=root)
    assert repository.head().branch is None
    assert repository.head().commit == root
    assert repository.refs() == {"heads/main": made.id}
    repository.undo()
    assert repository.head().branch == "main"


def test_evaluations_and_statistics(plain_repository: Repository) -> None:
    made = record(plain_repository, [fact(1)])
    state = plain_repository.state_id(plain_repository.state(made.id))
    plain_repository.put_evaluation(state, made.id, "fact", "a", {"es": 1.0})
    plain_repository.put_evaluation(state, None, "perplexity", "a", 20.5)
    plain_repository.put_evaluation(state, made.id, "fact", "a", {"es": 0.5})
    assert plain_repository.evaluations(state, "fact") == {("fact", "a"): {"es": 0.5}}
    assert plain_repository.evaluations(state) == {("fact", "a"): {"es": 0.5}, ("perplexity", "a"): 20.5}
    plain_repository.put_statistics(StatisticsId("5" * 64), {"tokens": 3})
    assert plain_repository.statistics() == {"5" * 64: {"tokens": 3}}


def test_gc_keeps_what_undo_needs_and_drops_the_rest(plain_repository: Repository) -> None:
    repository = plain_repository
    root = repository.head().commit
    made = record(repository, [fact(1)])
    keep = record(repository, [fact(2)])
    repository.publish(verb="reset", description="back", refs=[RefUpdate("heads/main", keep.id, root)])
    assert collect_garbage(repository, grace=0).commits == 0
    assert repository.has_commit(keep.id)
    repository.put_evaluation(repository.state_id(keep.adds), keep.id, "fact", "k", {"es": 1.0})
    blobs = len(list(repository.blobs.iterate()))
    trial = collect_garbage(repository, keep_operations=0, grace=0, dry_run=True)
    assert len(list(repository.blobs.iterate())) == blobs
    assert repository.has_commit(made.id)
    # two records, two patches, two constraints, one provenance that they share
    assert (trial.commits, trial.blobs, trial.operations) == (2, 7, 4)
    assert collect_garbage(repository, keep_operations=0, grace=0) == trial
    assert travelling(repository) == []
    assert not repository.has_commit(made.id)
    with pytest.raises(IntegrityError):
        repository.fact(fact(1).id)
    with pytest.raises(UsageError):
        repository.undo()
    assert record(repository, [fact(1)]).id == made.id


def test_gc_leaves_young_orphans_and_removes_old_ones(plain_repository: Repository) -> None:
    orphan = plain_repository.blobs.put(b"nobody")
    assert plain_repository.orphans() == [orphan]
    assert collect_garbage(plain_repository).blobs == 0
    assert collect_garbage(plain_repository, grace=0).bytes == len(b"nobody")
    assert plain_repository.orphans() == []


def test_log_is_newest_first_with_a_limit(plain_repository: Repository) -> None:
    made = [record(plain_repository, [fact(n)]) for n in range(4)]
    assert plain_repository.log([made[-1].id], limit=2) == [made[3], made[2]]
    assert [c.id for c in plain_repository.log([made[-1].id])][:4] == [c.id for c in reversed(made)]
    assert plain_repository.log([made[-1].id], limit=0) == []


def test_revisions(plain_repository: Repository) -> None:
    repository = plain_repository
    root = repository.head().commit
    made = [record(repository, [fact(n)], message=f"edit {n}") for n in range(3)]
    repository.publish(verb="tag", description="t", refs=[RefUpdate("tags/v1", None, made[0].id)])
    assert repository.resolve("HEAD~3") == root
    assert repository.resolve("v1^") == root
    assert repository.resolve(made[1].id[:12]) == made[1].id
    assert repository.resolve_range("v1..main") == [made[1].id, made[2].id]
    assert repository.resolve_range("v1..") == [made[1].id, made[2].id]
    assert repository.resolve_range("@") == [made[2].id]


def test_thousands_of_commits_stay_quick_in_statements(plain_repository: Repository) -> None:
    repository = plain_repository
    facts = [fact(n) for n in range(1100)]
    patch = put_patch(repository, facts)
    root = repository.head().commit
    commits, parent = [], root
    for n, column in enumerate(patch.columns):
        made = dataclasses.replace(
            repository.commit(root) if n == 0 else commits[0],
            parents=(parent,),
            adds=(column,),
            removes=(),
            patches=(patch.id,),
            kind="commit",
            message=f"edit {n}",
        )
        commits.append(made)
        parent = made.id
    repository.publish(
        verb="pull",
        description="many",
        commits=commits,
        patches=[patch],
        facts=facts,
        refs=[RefUpdate("heads/main", root, parent)],
    )
    assert repository.state(parent) == set(patch.columns)
    assert len(repository.live_facts(parent)) == 1100
    assert len(repository.log([parent])) == 1101


def _as_nobody(work: Callable[[], str]) -> str:
    """Run `work` without root's powers, which no permission holds back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            text = work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody may enter: pytest's own are for their owner only."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_read_only_repository_can_be_read(open_path: Path) -> None:
    tmp_path = open_path
    with init(tmp_path / "work") as repository:
        made = record(repository, [fact(1)])

    def read() -> str:
        with Repository.open(tmp_path / "work") as repository:
            assert repository.fsck() == []
            return repository.live_facts(made.id)[0].fact.subject

    def write() -> str:
        with Repository.open(tmp_path / "work") as repository:
            return record(repository, [fact(2)]).id

    def put() -> str:
        with Repository.open(tmp_path / "work") as repository:
            repository.publish(verb="tag", description="x", refs=[RefUpdate("tags/x", None, made.id)])
            return "written"

    root = tmp_path / "work" / ".memitvc"
    for directory in (root, *(p for p in root.rglob("*") if p.is_dir())):
        directory.chmod(0o555)
    try:
        assert _as_nobody(read) == "City 1"
        assert _as_nobody(write).startswith("StorageError")
        assert _as_nobody(put).startswith("StorageError")
        root.chmod(0o000)
        assert _as_nobody(read).startswith("StorageError")
        assert _as_nobody(lambda: init(tmp_path / "work" / ".memitvc" / "x").head().commit).startswith("StorageError")
    finally:
        for directory in (root, *(p for p in root.rglob("*") if p.is_dir())):
            directory.chmod(0o755)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tracebacks have no notes before")
def test_a_traceback_says_what_to_do() -> None:
    error = RevisionError("no such thing", hint="try another")
    assert str(error) == "no such thing"
    assert traceback.format_exception(error)[-2:] == [
        "memit_vc.errors.RevisionError: no such thing\n",
        "hint: try another\n",
    ]
