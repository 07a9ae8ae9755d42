"""Mixtures of experts, from init to a reverted edit: only the experts that the facts reach are written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from memit_vc.errors import BaseChangedError, EngineError, IntegrityError, UnsupportedModelError
from memit_vc.numerics.exact.materialise import delta
from memit_vc.numerics.scores.influence import keys_at, output_norm
from memit_vc.objects import Fact
from memit_vc.porcelain.asking.blame import blame
from memit_vc.porcelain.base import SeenBase, checked_base
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.editing.solver import solver_for
from memit_vc.porcelain.history.status import status
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_adapter import export_adapter
from memit_vc.porcelain.output.export_merged import export_merged
from memit_vc.porcelain.output.signature import sign, verify_signature
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.recomputing.reproduce import reproduce
from memit_vc.porcelain.recomputing.resolve import resolve_revert, resolve_squash
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.setup import init, weights_of_model
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.remote.manifest import ADAPTER
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import SINGLE_FILE
from memit_vc.store.parts import part_names, part_of
from tests.porcelain.output.test_signature import flip, keys
from tests.support.checkpoints import hash_directory
from tests.support.models import facts, tiny
from tests.support.places import make_place

TOKENS = 400


def plain(directory: Path) -> Any:
    """The model as anybody without memit-vc loads it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto", local_files_only=True).eval()


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "granitemoe", "gpt_oss"])
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
        wholes = {part_of(weight.name)[0] for weight in state.touched}
        assert changed == wholes
        assert all(weight.expert is not None for weight in state.touched)
        written = [weight for weight in repository.weights() if part_of(weight.name)[0] in wholes]
        size = sum(weight.d_out * weight.d_in * 4 for weight in written)
        if family in ("granitemoe", "gpt_oss"):  # one tensor holds all experts of a layer
            assert len(wholes) < len(state.touched)
            assert old.keys().isdisjoint(w.name for w in written)
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


def test_the_guess_leaves_dense_layers_out(tmp_path: Path) -> None:
    base = tiny("deepseek_v3", tmp_path / "base", num_hidden_layers=6, first_k_dense_replace=2)
    assert init(str(base), directory=tmp_path / "work").layers == (2, 3, 4)
    with Repository.open(tmp_path / "work") as repository:
        assert fsck(repository) == ([], 0)


def test_status_says_the_load_of_the_commit(tmp_path: Path) -> None:
    place = make_place(tmp_path, "mixtral", v_num_grad_steps=2, retries=0)
    with Repository.open(place.work) as repository:
        assert status(repository).load == 0
        made = commit_facts(repository, facts(3), tokens=TOKENS)
        assert status(repository).load == made.load == 3 / (4 * 24)
        assert fsck(repository) == ([], 0)


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


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3_moe"])
def test_experts_that_share_a_tensor(family: str, tmp_path: Path) -> None:
    """Every way out of the repository writes the whole tensor; every check looks at the experts."""
    place = make_place(tmp_path, family, v_num_grad_steps=20, v_lr=0.1, retries=0)
    if family == "qwen3_moe":  # its checkpoints have the experts apart, and transformers also loads them together
        base = tmp_path / "joined"
        _join_experts(place.base, base)
        work = tmp_path / "joined-work"
        work.mkdir()
        init(str(base), directory=work, hparams=tmp_path / "hparams.yaml", corpus=str(place.text))
        place = replace(place, base=base, work=work)
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        made = commit_facts(repository, facts(2), tokens=TOKENS, loaded=loaded)
        out = checkout(repository, "HEAD", tmp_path / "out").directory
        merged = export_merged(repository, "HEAD", tmp_path / "merged", max_shard_size="30KB").directory
        assert hash_directory(merged) == hash_directory(out)
        half = export_merged(repository, "HEAD", tmp_path / "half", dtype="bfloat16").directory
        assert hash_directory(half).keys() == hash_directory(out).keys()
        private, public = keys(tmp_path)
        signature = sign(repository, "HEAD", tmp_path / "signature", key=private).directory
        for directory in (out, merged):
            assert verify(repository, directory).commits == (made.id,)
            assert verify_signature(directory, signature, key=public).commit == made.id
        assert plain(merged).dtype == torch.float32

        again = checkout(repository, "HEAD", tmp_path / "again")  # from the cache of hot shards
        assert hash_directory(again.directory) == hash_directory(out)
        (shard,) = (repository.root / "cache" / "hot").glob("*.safetensors")
        assert fsck(repository) == ([], 0)
        flip(shard, -1)
        mended = checkout(repository, "HEAD", tmp_path / "mended")
        assert any(shard.name in note for note in mended.notes)
        assert hash_directory(mended.directory) == hash_directory(out)

        revert(repository, ["HEAD"])
        checkout(repository, "HEAD", out, replace=True)
        assert hash_directory(out) == hash_directory(place.base)
        assert fsck(repository) == ([], 0)

    flip(place.base / SINGLE_FILE, -1)
    with Repository.open(place.work) as repository, pytest.raises(BaseChangedError):
        checked_base(repository)
    flip(place.base / SINGLE_FILE, -1)


def _join_experts(base: Path, out: Path) -> None:
    shutil.copytree(base, out)
    tensors = load_file(out / SINGLE_FILE)
    joined: dict[str, torch.Tensor] = {}
    for name in sorted(tensors):
        found = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)_proj\.weight", name)
        if found is None:
            joined[name] = tensors[name]
    for layer in range(4):
        stem = f"model.layers.{layer}.mlp.experts"
        parts = {part: [tensors[f"{stem}.{n}.{part}_proj.weight"] for n in range(4)] for part in ("gate", "up", "down")}
        joined[f"{stem}.down_proj"] = torch.stack(parts["down"])
        both = [torch.cat(pair) for pair in zip(parts["gate"], parts["up"], strict=True)]
        joined[f"{stem}.gate_up_proj"] = torch.stack(both)
    save_file(joined, out / SINGLE_FILE, {"format": "pt"})


def test_touched_experts_of_a_layer_that_is_edited_no_more(tmp_path: Path) -> None:
    """The hot shard holds their whole tensor, whichever layers the hyperparameters name now."""
    place = make_place(tmp_path, "gpt_oss", v_num_grad_steps=20, v_lr=0.1, retries=0)
    with Repository.open(place.work) as repository:
        made = commit_facts(repository, facts(2), tokens=TOKENS)
        now = repository.hparams().replace(layers=[1])
        repository.hparams_path.write_text(now.to_yaml(), encoding="utf-8")
    with Repository.open(place.work) as repository:
        touched = {weight.name for weight in LiveState.of_head(repository).touched if weight.layer == 2}
        assert 0 < len(touched) < 4
        checkout(repository, "HEAD", tmp_path / "out")
        assert verify(repository, tmp_path / "out").commits == (made.id,)
        assert fsck(repository) == ([], 0)


def test_a_config_of_another_number_of_experts_is_refused(tmp_path: Path) -> None:
    place = make_place(tmp_path, "granitemoe", start=False)
    config = json.loads((place.base / "config.json").read_text())
    (place.base / "config.json").write_text(json.dumps({**config, "num_local_experts": 8}))
    with pytest.raises(UnsupportedModelError, match="do not fit the number of experts"):
        init(str(place.base), directory=tmp_path / "work", hparams=tmp_path / "hparams.yaml", corpus=str(place.text))
    assert not (tmp_path / "work" / ".memitvc").exists()


@pytest.mark.parametrize("whole", ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight", None])
def test_a_remote_cannot_take_other_tensors_apart(whole: str | None, tmp_path: Path) -> None:
    """`whole` in parts, or the experts not in parts: consistent in itself, but not what `init` records."""
    place = make_place(tmp_path, "granitemoe")
    seen = SeenBase.find(str(place.base), None)
    with Repository.open(place.work) as repository:
        names = set() if whole is None else set(repository.base().names)
        if whole is not None:
            names |= set(part_names(whole, seen.checkpoint.tensors[whole][1].shape[0]))
        manifest = seen.in_parts(names).checkpoint.manifest()
        with pytest.raises(IntegrityError, match="other parts than the experts"):
            weights_of_model(seen.in_parts(names), manifest, repository.hparams())
        right = repository.base()
        found, _ = weights_of_model(seen.in_parts(right.names), right, repository.hparams())
        assert tuple(found) == repository.weights()
