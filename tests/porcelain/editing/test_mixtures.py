"""Mixtures of experts, from init to a reverted edit: only the experts that the facts reach are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from memit_vc.errors import EngineError, UnsupportedModelError
from memit_vc.numerics.exact.materialise import delta
from memit_vc.numerics.scores.influence import keys_at, output_norm
from memit_vc.objects import Fact
from memit_vc.porcelain.asking.blame import blame
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.editing.solver import solver_for
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_adapter import export_adapter
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.recomputing.reproduce import reproduce
from memit_vc.porcelain.recomputing.resolve import resolve_revert, resolve_squash
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.manifest import ADAPTER
from memit_vc.repository import Repository
from tests.support.checkpoints import hash_directory
from tests.support.models import facts
from tests.support.places import make_place

TOKENS = 400


def plain(directory: Path) -> Any:
    """The model as anybody without memit-vc loads it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto", local_files_only=True).eval()


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_a_mixture_edits_checks_out_and_reverts(family: str, tmp_path: Path) -> None:
    place = make_place(tmp_path, family, v_num_grad_steps=20, v_lr=0.1, retries=0)
    first, second = facts(4)[:2], facts(4)[2:]
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        before = {name: parameter.clone() for name, parameter in loaded.adapter.model.named_parameters()}
        commits = [commit_facts(repository, part, tokens=TOKENS, loaded=loaded).id for part in (first, second)]
        assert all(torch.equal(p, before[name]) for name, p in loaded.adapter.model.named_parameters())
        state = LiveState.of_head(repository)
        made = checkout(repository, "HEAD", tmp_path / "out")
        assert verify(repository, tmp_path / "out").commits == (commits[1],)

        old, new = hash_directory(place.base), hash_directory(tmp_path / "out")
        changed = {name for name in old if old[name] != new[name]}
        assert changed == {weight.name for weight in state.touched}
        assert all(weight.expert is not None for weight in state.touched)
        size = sum(weight.d_out * weight.d_in * 4 for weight in state.touched)
        assert size <= made.hot_bytes < size + 8192  # the header is the rest

        edited = plain(tmp_path / "out")
        with loaded.holding(state) as adapter:
            ids = torch.tensor([adapter.tokenizer(first[0].prompt)["input_ids"]])
            with torch.no_grad():
                assert torch.equal(adapter.model(ids).logits, edited(ids).logits)
        assert gain(plain(place.base), edited, loaded.adapter.tokenizer, [*first, *second]) > 0.0

        add_remote(repository, "origin", str(tmp_path / "shared"), directory=tmp_path)
        sent = push(repository)
        assert [note for note in sent.notes if note.startswith("no adapter")]
        assert not set(sent.files) & set(ADAPTER)
        copy = tmp_path / "copy"
        clone(str(tmp_path / "shared"), copy, base=str(place.base), start=tmp_path)
        with Repository.open(copy) as other:
            assert LiveState.of_head(other).id == state.id
            assert hash_directory(checkout(other, "HEAD", tmp_path / "of-copy").directory) == new
            assert fsck(other) == ([], 0)

        revert(repository, [commits[0]])  # in mid-history
        alone = LiveState.of_head(repository)
        assert {fact.fact.id for fact in alone.live} == {fact.id for fact in second}
        revert(repository, [commits[1]])
        assert hash_directory(checkout(repository, "HEAD", tmp_path / "back").directory) == old
        assert fsck(repository) == ([], 0)

        with pytest.raises(UnsupportedModelError, match="all experts of a layer"):
            export_adapter(repository, commits[1], tmp_path / "adapter")


def gain(base: Any, edited: Any, tokenizer: Any, asked: list[Fact] | tuple[Fact, ...]) -> float:
    """How much likelier the targets became, in nats, on average."""
    found = []
    for fact in asked:
        given = len(tokenizer(fact.prompt)["input_ids"])
        ids = torch.tensor([tokenizer(f"{fact.prompt} {fact.target}")["input_ids"]])
        with torch.no_grad():
            logs = [model(ids).logits[0, given - 1 : -1].log_softmax(-1) for model in (base, edited)]
        old, new = (float(log.gather(1, ids[0, given:, None]).sum()) for log in logs)
        found.append(new - old)
    return sum(found) / len(found)


def test_what_is_solved_again_and_blamed(tmp_path: Path) -> None:
    place = make_place(tmp_path, "qwen2_moe", v_num_grad_steps=20, v_lr=0.1, retries=0)
    first, second = facts(4)[:2], facts(4)[2:]
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        commits = [commit_facts(repository, part, tokens=TOKENS, loaded=loaded).id for part in (first, second)]
        state = LiveState.of_head(repository)
        layer = repository.hparams().layers[0]
        for fact, commit in ((first[0], commits[0]), (second[1], commits[1])):
            found = blame(repository, fact.prompt, loaded=loaded)
            assert found.commits[0].commit == commit
            assert found.facts[0].facts == (fact,)
        with loaded.holding(state) as adapter:  # by hand: the whole of D at the key that the forward has
            key = keys_at(adapter, second[1].prompt, second[1].subject, [layer])[layer]
            whole = _delta(loaded, state, layer) @ key
        shares = [entry.layers[layer] for entry in blame(repository, second[1].prompt, loaded=loaded).commits]
        with loaded.holding(state) as adapter:
            assert sum(shares) >= 0.999 * float(whole.norm()) / output_norm(adapter, layer, key)

        solver = solver_for(state, loaded=loaded)
        stored = solver.constraints(state)
        keys, targets = stored.keys[layer], stored.targets[layer]
        matrix = solver.statistics.factor(layer).matrix()
        joint = targets @ torch.linalg.solve(matrix + keys @ keys.T, keys).T
        made = resolve_squash(repository, loaded=loaded)
        assert made.snapping < 1e-4
        squashed = _delta(loaded, LiveState.of_head(repository), layer)
        assert float((squashed - joint).norm() / joint.norm()) < 1e-4
        assert reproduce(repository, "HEAD", loaded=loaded).equal

        resolve_revert(repository, [commits[0]], loaded=loaded)
        rest = [i for i, source in enumerate(stored.sources) if source.fact in {fact.id for fact in second}]
        keys, targets = keys[:, rest], targets[:, rest]
        alone = targets @ torch.linalg.solve(matrix + keys @ keys.T, keys).T
        left = _delta(loaded, LiveState.of_head(repository), layer)
        assert float((left - alone).norm() / alone.norm()) < 1e-4
        assert fsck(repository) == ([], 0)


def _delta(loaded: LoadedModel, state: LiveState, layer: int) -> torch.Tensor:
    """D of all experts of a layer, side by side as their keys are."""
    return torch.cat([delta(state.terms(weight), weight) for weight in loaded.parts(layer)], dim=1)


def test_a_verb_that_does_not_know_experts_says_so(tmp_path: Path) -> None:
    place = make_place(tmp_path, "qwen3_moe", v_num_grad_steps=2, retries=0)
    with Repository.open(place.work) as repository, pytest.raises(EngineError, match="has experts"):
        load_model(repository).base_weight(1)


def test_one_tensor_for_all_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="granitemoe is a mixture of experts"):
        make_place(tmp_path, "granitemoe")
