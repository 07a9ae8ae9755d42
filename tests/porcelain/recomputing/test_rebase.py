"""rebase: a branch's batches on another tip are those that would have been committed there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc.cli import main
from memit_vc.errors import ConflictError, MemitVCError, RefMovedError
from memit_vc.objects import CommitId, Fact, RefUpdate
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.editing.statistics import prepare_statistics
from memit_vc.porcelain.history.settings import settings_of
from memit_vc.porcelain.recomputing.rebase import rebase
from memit_vc.porcelain.recomputing.resolve import resolve_revert
from memit_vc.porcelain.sets.cherry_pick import cherry_pick
from memit_vc.porcelain.sets.commit_kept import commit_kept
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sets.switch import switch, switch_to_new
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.opened import Opened


def fork(
    repository: Repository, loaded: LoadedModel, batches: Sequence[Sequence[Fact]], revision: str = "HEAD~2"
) -> None:
    """Branch side at `revision` with these batches; HEAD is on it, main has batches 1 to 3."""
    updates = [RefUpdate("heads/side", None, repository.resolve(revision))]
    repository.publish(verb="branch", description="side", refs=updates, head="heads/side")
    for number, batch in enumerate(batches):
        commit_facts(repository, batch, message=f"side {number}", scores=False, loaded=loaded)


def test_batches_are_those_that_would_have_been_made_there(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [[FACTS[6]], [FACTS[7]]])
    revert(repository, ["HEAD~1"])
    revert(repository, ["HEAD"])
    old, main_tip = repository.head().commit, repository.resolve("main")
    before = repository.operations(1)[0].id
    made = rebase(repository, "main", scores=False, loaded=loaded)
    assert (made.branch, made.onto, made.skipped) == ("side", main_tip, ())
    assert [pair[0] for pair in made.commits] == [repository.resolve(f"{old}~{n}") for n in (3, 2, 1, 0)]
    assert repository.head().commit == made.id == repository.resolve("side")
    assert repository.resolve(f"{made.id}~4") == main_tip
    assert repository.operations(1)[0].id == before + 1
    new = [repository.commit(pair[1]) for pair in made.commits]
    assert [commit.kind for commit in new] == ["rebase", "rebase", "revert", "revert"]
    assert [commit.message.split("\n")[0] for commit in new[:2]] == ["side 0", "side 1"]
    assert set(new[2].removes) == set(new[0].adds) == set(new[3].adds)
    assert {e.fact.id for e in repository.live_facts(made.id)} == {fact.id for fact in FACTS}

    # the same two batches, committed on main itself
    repository.publish(verb="switch", description="main", head="heads/main")
    for fact in FACTS[6:8]:
        commit_facts(repository, [fact], scores=False, loaded=loaded)
    assert repository.state(repository.head().commit) == repository.state(made.id)
    repository.restore(before)
    assert repository.head().commit == repository.resolve("side") == old


def test_what_is_there_already_is_skipped(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [FACTS[2:4], [FACTS[6], FACTS[4]]])
    old = repository.head().commit
    made = rebase(repository, "main", scores=False, loaded=loaded)
    assert made.skipped == (repository.resolve(f"{old}~1"),)
    assert len(repository.commit(made.id).adds) == 1
    assert len(repository.state(made.id)) == 7


def test_a_branch_without_commits_of_its_own_moves_forward(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    fork(repository, load_model(repository), [])
    made = rebase(repository, "main")
    assert made.fast_forward
    assert repository.resolve("side") == repository.resolve("main")
    with pytest.raises(MemitVCError, match="already up to date"):
        rebase(repository, "main")


def test_what_cannot_be_rebased_changes_nothing(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [[replace(FACTS[2], target="Madrid")]])
    tip = repository.head().commit
    with pytest.raises(ConflictError, match="Madrid"):
        rebase(repository, "main", loaded=loaded)
    assert repository.head().commit == tip
    repository.undo()
    commit_facts(repository, [FACTS[6]], scores=False, loaded=loaded)
    resolve_revert(repository, ["HEAD"], loaded=loaded)
    with pytest.raises(MemitVCError, match="revert --resolve"):
        rebase(repository, "main", loaded=loaded)


def test_a_branch_that_moved_meanwhile_stays(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [[FACTS[6]]])
    old, other = repository.head().commit, repository.resolve("HEAD~1")

    def meanwhile(stage: str, done: int, total: int) -> None:
        if stage == "rebase" and done == 0 and repository.resolve("side") == old:
            repository.publish(verb="test", description="x", refs=[RefUpdate("heads/side", old, other)])

    with pytest.raises(RefMovedError, match="patches are kept") as moved:
        rebase(repository, "main", scores=False, loaded=loaded, progress=meanwhile)
    assert repository.resolve("side") == other
    assert collect_garbage(repository, grace=0.0).commits == 0
    (kept,) = repository.kept_patches()
    assert f"commit --patch {kept[:10]}" in str(moved.value.hint)
    commit_kept(repository, kept)
    assert {e.fact.id for e in repository.live_facts(repository.head().commit)} == {
        fact.id for fact in (*FACTS[:2], FACTS[6])
    }


def test_what_a_batch_warns_of_is_told(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [[FACTS[6]]])
    tip = repository.commit(repository.head().commit)
    assert tip.provenance is not None
    id_ = json.loads(repository.blobs.read(tip.provenance))["statistics"]["id"]
    shutil.rmtree(repository.root / "statistics")
    (repository.root / "statistics").mkdir()
    prepare_statistics(loaded, repository.hparams(), tokens=170, choose=True)
    made = rebase(repository, "main", scores=False, loaded=loaded)
    assert any(f"{tip.id[:10]}: its statistics {id_[:10]} are not here" in note for note in made.notes)
    assert any(f"{tip.id[:10]}: statistics of 170 tokens" in warning for warning in made.warnings)


def test_gc_in_the_middle_loses_nothing(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [[FACTS[6]], [FACTS[7]]])

    def collect(stage: str, done: int, total: int) -> None:
        if stage == "rebase" and done == 1:
            with Repository.open(repository.directory) as another:
                collect_garbage(another, grace=0.0)

    made = rebase(repository, "main", scores=False, loaded=loaded, progress=collect)
    assert len(made.commits) == 2
    assert len(repository.live_facts(made.id)) == 8
    assert repository.kept_patches() == []


def test_an_error_in_the_middle_keeps_nothing(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [[FACTS[6]], [FACTS[7]]])
    tip = repository.head().commit

    def fail(stage: str, done: int, total: int) -> None:
        if stage == "rebase" and done == 1:
            assert len(repository.kept_patches()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebase(repository, "main", scores=False, loaded=loaded, progress=fail)
    assert repository.kept_patches() == []
    assert repository.head().commit == tip


def test_a_fact_that_is_cancelled_there_comes_in_anew(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [FACTS[4:6]])
    repository.publish(verb="switch", description="main", head="heads/main")
    resolve_revert(repository, ["HEAD"], loaded=loaded)
    repository.publish(verb="switch", description="side", head="heads/side")
    made = rebase(repository, "main", scores=False, loaded=loaded)
    assert {e.fact.id for e in repository.live_facts(made.id)} == {fact.id for fact in FACTS[:6]}
    assert len(repository.state(made.id)) == 6


def test_a_revert_that_puts_a_contradiction_back_stops(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [])
    out = revert(repository, ["HEAD"])
    repository.publish(verb="switch", description="main", head="heads/main")
    revert(repository, [repository.resolve("HEAD~2")])
    commit_facts(repository, [replace(FACTS[0], target="Madrid")], scores=False, loaded=loaded)
    repository.publish(verb="switch", description="side", head="heads/side")
    revert(repository, [out.id])
    # the first commit has nothing left to do there, the second would put the old answer beside the new one
    with pytest.raises(ConflictError, match="Madrid"):
        rebase(repository, "main", scores=False, loaded=loaded)


def test_the_command(opened: Opened, with_history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = opened(with_history)
    fork(repository, load_model(repository), [[FACTS[6]]])
    where = str(repository.directory)
    assert main(["rebase", "-C", where, "main", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["commits"]) == 1
    assert main(["show", "-C", where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["after"]["total"]["nll"] > 0
    assert main(["rebase", "-C", where, "main"]) == 1
    assert "already up to date" in capsys.readouterr().err
    assert main(["rebase", "-C", where, "nowhere"]) == 1


def test_a_squash_keeps_what_no_batch_computed(opened: Opened, with_history: Path) -> None:
    """Its cancel columns take out a fact of the common history; only its new fact is computed again."""
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [])
    out = {each.fact.id for each in repository.live_facts(repository.head().commit)}
    start = repository.head().commit
    resolve_revert(repository, ["HEAD"], loaded=loaded)
    cancels = LiveState.of_head(repository).columns - repository.state(start)
    commit_facts(repository, [FACTS[6]], scores=False, loaded=loaded)
    squash(repository, f"{start}..HEAD")
    made = rebase(repository, "main", scores=False, loaded=loaded)
    state = LiveState.of_head(repository)
    assert cancels
    assert cancels <= state.columns
    live = {each.fact.id for each in state.live}
    assert FACTS[6].id in live
    assert not live & out
    assert [note for note in made.notes if "it was squashed; its layers and λ were used" in note]


def test_what_was_solved_against_edits_of_the_range_is_refused(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    fork(repository, loaded, [[FACTS[6]]])
    start, edit = repository.resolve("HEAD~1"), repository.head().commit
    resolve_revert(repository, ["HEAD"], loaded=loaded)
    taken_out = repository.head().commit
    repository.publish(verb="branch", description="picked", refs=[RefUpdate("heads/picked", None, edit)])
    switch(repository, "picked")
    cherry_pick(repository, [taken_out])
    assert FACTS[6].id not in LiveState.of_head(repository).edits
    with pytest.raises(MemitVCError, match="solved against edits of this range"):
        rebase(repository, "main", loaded=loaded)
    switch(repository, "side")
    commit_facts(repository, [FACTS[7]], scores=False, loaded=loaded)
    squash(repository, f"{start}..HEAD")
    with pytest.raises(MemitVCError, match="solved against edits of this range"):
        rebase(repository, "main", loaded=loaded)


def test_a_squash_is_computed_with_its_own_settings(opened: Opened, with_history: Path) -> None:
    """λ of the batch, not of hparams.yaml: of one whole patch all settings are known, of several the common ones."""
    repository = opened(with_history)
    loaded, usual = load_model(repository), repository.hparams()
    own = usual.replace(mom2_update_weight=usual.mom2_update_weight * 7)
    fork(repository, loaded, [])
    start = repository.head().commit
    commit_facts(repository, [FACTS[6]], hparams=own, scores=False, loaded=loaded)
    commit_facts(repository, [FACTS[7]], hparams=own, scores=False, loaded=loaded)
    revert(repository, ["HEAD"])
    squash(repository, f"{start}..HEAD")
    made = rebase(repository, "main", scores=False, loaded=loaded)
    assert settings_of(LiveState(repository, repository.commit(made.id).adds)) == {
        (tuple(own.layers), own.mom2_update_weight, next(iter(repository.statistics())))
    }
    repository.undo()
    switch_to_new(repository, "two", start)
    for fact in FACTS[6:8]:
        commit_facts(repository, [fact], hparams=own, scores=False, loaded=loaded)
    squash(repository, f"{start}..HEAD")
    made = rebase(repository, "main", scores=False, loaded=loaded)
    ((_, weight, _),) = settings_of(LiveState(repository, repository.commit(made.id).adds))
    assert weight == own.mom2_update_weight


def taken_out(repository: Repository, loaded: LoadedModel) -> tuple[CommitId, Fact]:
    """The start of the branch "side", and a fact of it that the branch's only commit takes out with --resolve."""
    fork(repository, loaded, [])
    start = repository.head().commit
    old = repository.live_facts(start)[0].fact
    resolve_revert(repository, ["HEAD"], loaded=loaded)
    return start, old


def edited_otherwise(repository: Repository, loaded: LoadedModel, fact: Fact) -> None:
    """On main, the fact gets another edit in place of its first one; HEAD stays on "side"."""
    switch(repository, "main")
    revert(repository, ["HEAD~2"])
    other = repository.hparams().replace(v_lr=0.3)
    commit_facts(repository, [fact], hparams=other, scores=False, loaded=loaded)
    switch(repository, "side")


def test_what_a_squash_itself_takes_out_is_no_conflict(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    start, old = taken_out(repository, loaded)
    commit_facts(repository, [replace(old, target="Peru")], scores=False, loaded=loaded)
    squash(repository, f"{start}..HEAD")
    rebase(repository, "main", scores=False, loaded=loaded)
    answers = {each.fact.question: each.fact.target for each in LiveState.of_head(repository).live}
    assert answers[old.question] == "Peru"


def test_a_cancel_column_that_fits_no_more_is_told(opened: Opened, with_history: Path) -> None:
    """There the fact has another edit, so the column that takes out the first one leaves."""
    repository = opened(with_history)
    loaded = load_model(repository)
    start, old = taken_out(repository, loaded)
    commit_facts(repository, [FACTS[6]], scores=False, loaded=loaded)
    squash(repository, f"{start}..HEAD")
    edited_otherwise(repository, loaded, old)
    made = rebase(repository, "main", scores=False, loaded=loaded)
    assert old.id in LiveState.of_head(repository).edits
    assert any("had been taken out with --resolve" in warning for warning in made.warnings)


def test_another_edit_of_what_is_taken_out_is_a_conflict(opened: Opened, with_history: Path) -> None:
    """The cancel column does not fit it, so both answers would be live."""
    repository = opened(with_history)
    loaded = load_model(repository)
    start, old = taken_out(repository, loaded)
    commit_facts(repository, [replace(old, target="Peru")], scores=False, loaded=loaded)
    squash(repository, f"{start}..HEAD")
    edited_otherwise(repository, loaded, old)
    with pytest.raises(ConflictError, match="Peru"):
        rebase(repository, "main", scores=False, loaded=loaded)
