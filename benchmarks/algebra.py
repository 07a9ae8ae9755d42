"""The algebra on a real model's shapes: a history of synthetic patches, the verbs' times, and hashes of checkouts.

    python benchmarks/algebra.py [--model DIR] [--commits 50]

Each commit holds two facts, with random factors of the size that real ones have in SmolLM2-135M. Measured are whole
processes, as a user starts them: the interpreter, the imports and the verb. On a machine that others use as well the
wall clock says as much about them, so the processor seconds of each process stand beside it.

What must be equal is asserted: the tensors' SHA-256 after `revert` of the seventh commit against a history that never
had it, and before against after `squash --all`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks.commands import memitvc
from benchmarks.report import machine
from memit_vc.cli.demo_model import demo_model
from memit_vc.config import user_cache
from memit_vc.numerics.exact.factored import LowRank
from memit_vc.numerics.exact.grid import snap
from memit_vc.objects import Commit, Fact, PatchColumn, canonical_json
from memit_vc.porcelain.editing.pack import pack
from memit_vc.porcelain.history.diff_weights import diff_weights
from memit_vc.porcelain.record import record
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository

LAYERS = (4, 5, 6, 7, 8)
LEFT_NORM, RIGHT_NORM = 25.0, 0.17
"""Of a column and a row of a real patch (ten CounterFact records, SmolLM2-135M-Instruct, float32)."""
PER_COMMIT, OUT = 2, 7
RESULTS = Path(__file__).parent / "results" / "algebra.json"


def add_commit(repository: Repository, number: int) -> None:
    """Two facts with factors that depend on `number` only."""
    generator = torch.Generator().manual_seed(number)
    facts = [
        Fact(prompt=f"The color of object {number}-{i} is", subject=f"object {number}-{i}", target=f"hue {number}")
        for i in range(PER_COMMIT)
    ]
    tensors = {}
    for weight in repository.weights():
        if weight.layer in LAYERS:
            left = torch.randn(weight.d_out, PER_COMMIT, generator=generator, dtype=torch.float64)
            right = torch.randn(PER_COMMIT, weight.d_in, generator=generator, dtype=torch.float64)
            left, right = LEFT_NORM * left / left.norm(dim=0), RIGHT_NORM * right / right.norm(dim=1, keepdim=True)
            tensors[weight.name] = LowRank(*snap(left.numpy(), right.numpy(), weight.quantum))
    patch, blobs = pack(
        repository,
        [PatchColumn(fact=fact.id) for fact in facts],
        tensors,
        constraints=None,
        provenance=canonical_json({"synthetic": number}),
    )
    for blob in blobs:
        repository.blobs.put(blob)
    head = repository.head()
    made = Commit(
        base=repository.base_id,
        parents=(head.commit,),
        adds=tuple(sorted(patch.columns)),
        removes=(),
        patches=(patch.id,),
        kind="commit",
        message=f"commit {number}",
        author="benchmark",
        time="2026-01-31T12:00:00Z",
        provenance=patch.header.provenance,
    )
    record(repository, head, [made], patches=[patch], facts=facts)


def fastest(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: min(run[name] for run in runs) for name in runs[0]}


def hashes(repository: Path, name: str) -> dict[str, str]:
    """SHA-256 of every tensor of a checkout of HEAD, read with safetensors itself."""
    directory = repository / name
    memitvc(repository, "checkout", "-o", str(directory))
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for tensor in file.keys():  # noqa: SIM118
                data = file.get_tensor(tensor).contiguous().view(torch.uint8).numpy()
                found[tensor] = hashlib.sha256(data).hexdigest()
    shutil.rmtree(directory)
    return found


def dense_spectrum(repository: Repository, name: str) -> torch.Tensor:
    """Singular values of the dense delta of a tensor, by another way than `diff --weights` takes."""
    from memit_vc.numerics.exact.materialise import delta
    from memit_vc.numerics.exact.patchfile import state_terms

    weight = next(weight for weight in repository.weights() if weight.name == name)
    columns = repository.state(repository.head().commit)
    terms = state_terms(repository.patch_path, repository.selection(columns), name)
    return torch.linalg.svdvals(delta(terms, weight))


def measure(root: Path, model: Path, commits: int, repetitions: int) -> dict[str, Any]:
    base = root / "base"
    init(str(model), directory=base)
    whole, never = root / "whole", root / "never"
    for directory, left_out in ((whole, ()), (never, (OUT,))):
        shutil.copytree(base, directory)
        with Repository.open(directory) as repository:
            for number in range(1, commits + 1):
                if number not in left_out:
                    add_commit(repository, number)
    verbs: dict[str, list[dict[str, float]]] = {}

    def timed(place: str, *words: str) -> None:
        verbs.setdefault(words[0], []).append(memitvc(root / place, *words))

    verbs["start of the interpreter"] = [memitvc(whole, "--help") for _ in range(repetitions)]
    timed("whole", "revert", f"HEAD~{commits - OUT}")
    reverted = hashes(whole, "reverted")
    equal = {"revert": reverted == hashes(never, "never")}
    assert equal["revert"], "a revert is not what a history without the commit gives"
    for number in range(repetitions):
        place = f"copy-{number}"
        shutil.copytree(whole, root / place)
        middle = f"HEAD~{commits // 2}"
        for words in (
            ("switch", "-c", "side", middle),
            ("cherry-pick", "main~3"),
            ("revert", "HEAD~5"),
            ("switch", "main"),
            ("merge", "side"),
            ("undo",),
            ("squash", "--all"),
        ):
            timed(place, *words)
        with Repository.open(root / place) as repository:
            assert repository.fsck() == []
    timed("whole", "squash", "--all")
    equal["squash"] = hashes(whole, "squashed") == reverted
    assert equal["squash"], "a squash changed the weights"
    with Repository.open(never) as repository:
        root_commit = repository.log([repository.head().commit])[-1].id
        head = repository.head().commit
        began = time.perf_counter()
        found = diff_weights(repository, root_commit, head)
        inside = time.perf_counter() - began
        largest = 0.0
        for tensor in found.tensors:
            dense = dense_spectrum(repository, tensor.name)[: tensor.rank]
            ours = torch.tensor(tensor.singular_values, dtype=torch.float64)
            largest = max(largest, float(((ours - dense) / dense).abs().max()))
    diffs = [memitvc(never, "diff", root_commit, "--weights", "--stat") for _ in range(repetitions)]
    return {
        "commits": commits,
        "facts": PER_COMMIT * commits,
        "tensors": len(reverted),
        "equal_hashes": equal,
        "verbs": {verb: fastest(runs) for verb, runs in verbs.items()},
        "diff_weights": {
            **fastest(diffs),
            "inside_seconds": inside,
            "rank": max(tensor.rank for tensor in found.tensors),
            "singular_values_relative_error": largest,
        },
        "repetitions": repetitions,
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model directory. Default: the demo's model.")
    parser.add_argument("--commits", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    model = given.model or demo_model(user_cache())[0]
    with tempfile.TemporaryDirectory(prefix="memitvc-algebra-") as name:
        results = measure(Path(name), model.resolve(), given.commits, given.repetitions)
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
