"""Commits of random factors on tiny real models: exporting does not ask where the numbers came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from memit_vc.numerics.exact.constraints import encode_constraints
from memit_vc.numerics.exact.factored import LowRank
from memit_vc.numerics.exact.grid import snap
from memit_vc.numerics.exact.patchfile import bounds, column_ids, encode_patch
from memit_vc.objects import (
    Commit,
    Fact,
    Patch,
    PatchColumn,
    PatchHeader,
    PatchId,
    RefUpdate,
    WeightForm,
    canonical_json,
)
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository
from tests.support.models import FACTS, hparams_for, load, tiny

KINDS = {
    "gpt2": ("gpt2", "float32"),
    "gptj": ("gptj", "float32"),
    "llama": ("llama", "float32"),
    "llama-bf16": ("llama", "bfloat16"),
}


def history(directory: Path, kind: str) -> Path:
    """Two commits on layers 1 and 2, one more that touches layer 2 only: ranks 5 and 7."""
    family, dtype = KINDS[kind]
    base = tiny(family, directory / "base", dtype=dtype)
    return start(directory / "work", base)


def start(work: Path, base: Path) -> Path:
    hparams = base.parent / "hparams.yaml"
    hparams.write_text(hparams_for(load(base)).replace(device="cpu").to_yaml(), encoding="utf-8")
    init(str(base), directory=work, hparams=hparams)
    with Repository.open(work) as repository:
        record(repository, FACTS[0:3], (1, 2), message="first", seed=1)
        record(repository, FACTS[3:5], (1, 2), message="second", seed=2)
        record(repository, FACTS[5:7], (2,), message="third", seed=3)
    return work


def patch_bytes(
    repository: Repository, facts: Sequence[Fact], layers: Sequence[int], *, seed: int
) -> tuple[bytes, bytes, bytes]:
    """(patch, constraints, provenance): one column per fact, of a size that turns the logits."""
    generator = torch.Generator().manual_seed(seed)
    weights = [weight for weight in repository.fact_weights() if weight.layer in layers]
    n = len(facts)
    tensors, keys, targets = {}, {}, {}
    for weight in weights:
        left = torch.randn(weight.d_out, n, generator=generator, dtype=torch.float64) * 0.5
        right = torch.randn(n, weight.d_in, generator=generator, dtype=torch.float64) * 0.2
        tensors[weight.name] = LowRank(*snap(left.numpy(), right.numpy(), weight.quantum))
        keys[weight.name] = torch.randn(weight.d_in, n, generator=generator).numpy()
        targets[weight.name] = torch.randn(weight.d_out, n, generator=generator).numpy()
    provenance = canonical_json({"algorithm": "none", "seed": seed})
    header = PatchHeader(
        base=repository.base_id,
        weights={w.name: WeightForm(form="low_rank", d_out=w.d_out, d_in=w.d_in, quantum=w.quantum) for w in weights},
        columns=tuple(PatchColumn(fact=fact.id) for fact in facts),
        provenance=repository.blobs.put(provenance),
    )
    z = torch.randn(n, weights[0].d_out, generator=generator).numpy()
    return encode_patch(header, tensors), encode_constraints(keys, targets, z), provenance


def record(repository: Repository, facts: Sequence[Fact], layers: Sequence[int], *, message: str, seed: int) -> Commit:
    """One commit on HEAD's branch."""
    from memit_vc.numerics.exact.patchfile import read_patch

    data, constraints, _ = patch_bytes(repository, facts, layers, seed=seed)
    header, tensors = read_patch(data)
    patch = PatchId(repository.blobs.put(data))
    columns = column_ids(patch, header, tensors)
    new = Patch(patch, header, columns, bounds(header, tensors), repository.blobs.put(constraints))
    head = repository.head()
    made = Commit(
        base=repository.base_id,
        parents=(head.commit,),
        adds=tuple(sorted(columns)),
        removes=(),
        patches=(patch,),
        kind="commit",
        message=message,
        author="Ada",
        time="2026-01-31T12:00:00Z",
        provenance=header.provenance,
    )
    repository.publish(
        verb="commit",
        description=message,
        commits=[made],
        patches=[new],
        facts=facts,
        refs=[RefUpdate(f"heads/{head.branch}", head.commit, made.id)],
    )
    return made
