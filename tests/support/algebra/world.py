"""Repositories on a tiny real model, with patches of random factors: everything but the engine is the real thing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from memit_vc.numerics.exact.constraints import encode_constraints
from memit_vc.numerics.exact.factored import Dense, LowRank
from memit_vc.numerics.exact.grid import snap, snap_dense
from memit_vc.numerics.exact.materialise import materialise
from memit_vc.numerics.exact.patchfile import bounds, column_ids, encode_patch, state_terms
from memit_vc.numerics.model.checkpoint_tensors import read_tensor
from memit_vc.objects import (
    ColumnId,
    Commit,
    EditableWeight,
    Fact,
    Patch,
    PatchColumn,
    PatchHeader,
    PatchId,
    WeightForm,
    canonical_json,
)
from memit_vc.porcelain.record import record
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository
from memit_vc.store.blobs import blob_id
from memit_vc.store.checkpoint import Checkpoint
from tests.support.models import tiny

__all__ = ["World", "fact"]

LAYERS = (1, 2)


def fact(number: int, target: str | None = None) -> Fact:
    return Fact(prompt=f"City {number} lies in", subject=f"City {number}", target=target or f"land {number}")


@dataclass(frozen=True)
class World:
    """A base with an empty repository on it, to be copied; `tensors` are the base's editable tensors as stored."""

    template: Path
    tensors: Mapping[str, Tensor]

    @classmethod
    def make(cls, directory: Path, model_type: str = "gpt2", dtype: str = "float32") -> World:
        base = tiny(model_type, directory / "base", dtype=dtype)
        init(str(base), directory=directory / "template")
        with Repository.open(directory / "template") as repository:
            checkpoint = Checkpoint.find(base)
            tensors = {w.name: read_tensor(checkpoint, w.name) for w in repository.weights()}
        return cls(directory / "template", tensors)

    def copy(self, directory: Path) -> Repository:
        """A fresh repository, open."""
        shutil.copytree(self.template, directory)
        return Repository.open(directory)

    def patch(
        self,
        repository: Repository,
        facts: Sequence[Fact],
        *,
        seed: int = 0,
        layers: Collection[int] = LAYERS,
        dense: bool = False,
        constraints: bool = True,
        role: Literal["edit", "cancel"] = "edit",
    ) -> Patch:
        """A patch with one random column per fact, its blobs stored; the same for the same arguments."""
        weights = [w for w in repository.weights() if w.layer in layers]
        name = f"{[f.id for f in facts]} {seed} {sorted(layers)} {dense} {role}"
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        n = len(facts)
        tensors: dict[str, LowRank | Dense] = {}
        for w in weights:
            left, right = normal(w.d_out, n) * 0.05, normal(n, w.d_in)
            tensors[w.name] = (
                Dense(snap_dense((left @ right).numpy(), w.quantum))
                if dense
                else LowRank(*snap(left.numpy(), right.numpy(), w.quantum))
            )
        provenance = canonical_json({"seed": seed})
        header = PatchHeader(
            base=repository.base_id,
            weights={
                w.name: WeightForm(form="dense" if dense else "low_rank", d_out=w.d_out, d_in=w.d_in, quantum=w.quantum)
                for w in weights
            },
            columns=tuple(PatchColumn(fact=each.id, role=role) for each in facts),
            provenance=blob_id(provenance),
        )
        blobs = [provenance, encode_patch(header, tensors)]
        patch = PatchId(blob_id(blobs[1]))
        blob = None
        if constraints:
            blobs.append(
                encode_constraints(
                    {w.name: normal(w.d_in, n).numpy() for w in weights},
                    {w.name: normal(w.d_out, n).numpy() for w in weights},
                    normal(n, weights[0].d_out).numpy(),
                )
            )
            blob = blob_id(blobs[2])
        for each in blobs:
            repository.blobs.put(each)
        return Patch(patch, header, column_ids(patch, header, tensors), bounds(header, tensors), blob)

    def commit(
        self,
        repository: Repository,
        facts: Sequence[Fact],
        *,
        message: str = "edit",
        patch: Patch | None = None,
        removes: Collection[ColumnId] = (),
        seed: int = 0,
        kind: str = "commit",
    ) -> Commit:
        """Commit facts on HEAD, as `memitvc commit` would."""
        patch = patch or self.patch(repository, facts, seed=seed)
        head = repository.head()
        made = Commit(
            base=repository.base_id,
            parents=(head.commit,),
            adds=tuple(sorted(patch.columns)),
            removes=tuple(sorted(removes)),
            patches=(patch.id,),
            kind=kind,
            message=message,
            author="Ada",
            time="2026-01-31T12:00:00Z",
            provenance=patch.header.provenance,
        )
        record(repository, head, [made], patches=[patch], facts=facts)
        return made

    def cancel(self, repository: Repository, facts: Sequence[Fact], *, seed: int = 0, dense: bool = False) -> Commit:
        """Take live facts out on HEAD as `revert --resolve` does: a column for each, beside those that edit it in."""
        patch = self.patch(repository, facts, seed=seed, dense=dense, role="cancel")
        return self.commit(repository, facts, patch=patch, message="out, solved", kind="revert")

    def weights(self, repository: Repository, columns: Collection[ColumnId]) -> dict[str, Tensor]:
        """The editable tensors of a state, as `checkout` would write them."""
        selection = repository.selection(columns)
        return {
            w.name: materialise(self.tensors[w.name], state_terms(repository.patch_path, selection, w.name), w)
            for w in repository.weights()
        }

    def plain(self, repository: Repository, patch: Patch) -> dict[ColumnId, dict[str, Tensor]]:
        """Each column of a patch as dense float64 deltas, [d_out, d_in], read without the package's own reader."""
        from safetensors.torch import load_file

        tensors = load_file(repository.patch_path(patch.id))

        def dense(name: str, form: str, n: int) -> Tensor:
            if form == "dense":
                return tensors[f"{name}.dense"].double()
            left, right = tensors[f"{name}.left"].double(), tensors[f"{name}.right"].double()
            return left @ right if form == "joint" else torch.outer(left[:, n], right[n])

        return {
            column: {name: dense(name, form.form, n) for name, form in patch.header.weights.items()}
            for n, column in enumerate(patch.columns)
        }

    def summed(self, weight: EditableWeight, deltas: Collection[Tensor]) -> Tensor:
        """The plain definition: base plus the sum in float64, cast to float32, then to the storage dtype."""
        base = self.tensors[weight.name]
        total = torch.zeros(weight.d_out, weight.d_in, dtype=torch.float64)
        for delta in deltas:
            total = total + delta
        if weight.orientation == "in_out":
            total = total.T
        return torch.where(total == 0, base, (base.double() + total).float().to(base.dtype))


def same_bytes(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return left.keys() == right.keys() and all(
        torch.equal(left[n].contiguous().view(torch.uint8), right[n].contiguous().view(torch.uint8)) for n in left
    )
