"""`squash --compress`: fewer columns, within a tolerance that is measured and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memit_vc.cli import main
from memit_vc.errors import EngineError, IntegrityError, MemitVCError, UsageError
from memit_vc.numerics.exact.compress import compress as fewer
from memit_vc.numerics.exact.factored import Dense, LowRank, Term
from memit_vc.numerics.exact.grid import snap, snap_dense
from memit_vc.numerics.exact.materialise import delta
from memit_vc.numerics.exact.patchfile import bounds, check_patch, column_ids, decode_header, encode_patch, read_patch
from memit_vc.objects import EditableWeight, PatchId, WeightForm
from memit_vc.porcelain.asking.blame import blame
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.history.diff_weights import diff_weights
from memit_vc.porcelain.recomputing.compress import compress
from memit_vc.porcelain.recomputing.resolve import resolve_revert, resolve_squash
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.state import LiveState
from tests.support.cases import header_of
from tests.support.models import FACTS
from tests.support.opened import Opened


def weight(d_out: int = 24, d_in: int = 40) -> EditableWeight:
    return EditableWeight(
        name="w", parameter="w", layer=0, orientation="out_in", d_out=d_out, d_in=d_in, dtype="F32", quantum=-46
    )


def terms(singular: list[float], where: EditableWeight, *, dense: bool = False) -> list[Term]:
    """Two terms whose sum has about these singular values."""
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(where.d_out, len(singular), generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(where.d_in, len(singular), generator=generator, dtype=torch.float64)).Q
    left, right = u * torch.tensor(singular, dtype=torch.float64), v.T
    if dense:
        return [Dense(snap_dense((left @ right).numpy(), where.quantum))]
    return [
        LowRank(*snap(left[:, part].numpy(), right[part].numpy(), where.quantum))
        for part in (slice(0, 2), slice(2, None))
    ]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_the_smallest_rank_within_the_tolerance(dense: bool, shape: tuple[int, int]) -> None:
    where = weight(*shape)
    given = terms([1.0, 0.5, 0.1, 1e-2, 1e-3, 1e-4], where, dense=dense)
    exact = delta(given, where)
    for tolerance, rank in ((0.5, 1), (0.2, 2), (0.05, 3), (2e-3, 4), (2e-4, 5)):
        made = fewer(given, where, tolerance)
        assert made is not None
        assert made.rank == rank
        error = float((delta([made.term], where) - exact).norm() / exact.norm())
        assert error <= tolerance
        assert made.error == pytest.approx(error, rel=1e-6)


def test_snapping_that_costs_more_than_the_tolerance_is_said() -> None:
    where = weight()
    made = fewer(terms([1.0, 0.5, 0.1], where), where, 1e-12)
    assert made is not None
    assert made.error > 1e-12
    assert fewer([], where, 0.1) is None


@pytest.mark.parametrize(("form", "rank"), [("joint", None), ("low_rank", 1), ("joint", -1), ("joint", True)])
def test_a_header_whose_form_and_rank_disagree(form: str, rank: int | None) -> None:
    where = weight()
    (term, _), header = terms([1.0, 0.5, 0.1], where), header_of(where, 2)
    good = replace(
        header, weights={"w": replace(header.weights["w"], form="joint", rank=2)}, columns=header.columns[:1]
    )
    read, tensors = read_patch(encode_patch(good, {"w": term}))
    assert read == good
    assert not read.divisible
    assert len(column_ids(PatchId("0" * 64), read, tensors)) == len(bounds(read, tensors)["w"]) == 1
    bad = replace(good, weights={"w": WeightForm(form=form, d_out=24, d_in=40, quantum=-46, rank=rank)})  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match="its header gives weight 'w' the form"):
        decode_header(bad.to_metadata(), "patch")


def test_one_patch_of_lower_rank_takes_the_place_of_all(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    before, facts = repository.state(repository.head().commit), repository.live_facts(repository.head().commit)
    old = {
        layer: delta(LiveState(repository, before).terms(loaded.weights[layer]), loaded.weights[layer])
        for layer in (1, 2)
    }
    made = compress(repository, 0.5)
    assert made.rank < made.columns == len(before) == 6
    after = repository.state(made.id)
    assert made.state == repository.state_id(after)
    assert len(after) == 1
    assert {e.fact.id for e in repository.live_facts(made.id)} == {e.fact.id for e in facts}
    for layer in (1, 2):
        w = loaded.weights[layer]
        error = float((delta(LiveState(repository, after).terms(w), w) - old[layer]).norm() / old[layer].norm())
        assert error == pytest.approx(made.errors[w.name], rel=1e-6)
        assert 0 < error <= 0.5
    assert repository.commit(made.id).details["error"] == made.error
    assert repository.fsck(check_patch=check_patch) == []
    found = diff_weights(repository, repository.parents(made.id)[0], made.id)
    assert {t.name for t in found.tensors} == set(made.ranks)
    # every bit comes back
    revert(repository, ["HEAD"])
    assert repository.state(repository.head().commit) == before


def test_what_was_compressed_can_still_be_solved(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    resolve_squash(repository, loaded=loaded)
    whole = repository.state(repository.head().commit)
    repository.undo()
    compress(repository, 0.5)
    ranked = blame(repository, FACTS[0].prompt, subject=FACTS[0].subject, loaded=loaded)
    assert len(ranked.commits) == len(ranked.facts) == 1
    assert len(ranked.facts[0].facts) == 6
    assert ranked.commits[0].influence > 0
    out = resolve_revert(repository, ["HEAD"], fact=FACTS[0].subject, loaded=loaded)
    assert {e.fact.id for e in repository.live_facts(out.id)} == {fact.id for fact in FACTS[1:6]}
    repository.undo()
    # the constraints came along whole: the solution is the very one that the single commits give
    again = resolve_squash(repository, loaded=loaded)
    assert repository.state(again.id) == whole
    assert again.notes == ()


def test_a_squash_keeps_the_settings_of_its_commits(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    wanted = repository.state(resolve_squash(repository, loaded=loaded).id)
    repository.undo()
    squash(repository)
    settings = repository.root / "hparams.yaml"
    settings.write_text(settings.read_text().replace("mom2_update_weight: 50.0", "mom2_update_weight: 70.0"))
    assert "70.0" in settings.read_text()
    assert repository.state(resolve_squash(repository, loaded=loaded).id) == wanted


def test_what_cannot_be_compressed(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    tip, blobs = repository.head().commit, set(repository.blobs.iterate())
    with pytest.raises(UsageError, match="between 0 and 1"):
        compress(repository, 0.0)
    with pytest.raises(EngineError, match="above 1e-12"):
        compress(repository, 1e-12)
    with pytest.raises(MemitVCError, match="no column can go"):
        compress(repository, 1e-4)
    assert repository.head().commit == tip
    assert set(repository.blobs.iterate()) == blobs


def test_on_the_command_line(opened: Opened, with_history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = opened(with_history)
    where = str(repository.directory)
    assert main(["squash", "-C", where, "--compress", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "6 columns into rank" in out
    assert "error" in out
    assert main(["undo", "-C", where]) == 0
    capsys.readouterr()
    assert main(["squash", "-C", where, "--compress", "0.5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["id"] == repository.head().commit
    assert max(record["errors"].values()) <= 0.5
    assert main(["squash", "-C", where, "--compress", "0.5", "--resolve"]) == 2
    assert main(["squash", "-C", where, "--compress", "2"]) == 2
