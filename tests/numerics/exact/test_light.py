"""Patches are checked, read and written without torch, which takes seconds to load: seen in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tests.numerics.exact.test_stored_bytes import CASES, QUANTA, SHAPES, numbers
from memit_vc.numerics.exact.constraints import Constraints, encode_constraints, read_constraints
from memit_vc.numerics.exact.factored import LowRank, stacked
from memit_vc.numerics.exact.patchfile import check_patch, encode_patch, read_pieces, read_weight
from memit_vc.numerics.exact.received import received_patch
from memit_vc.numerics.exact.weights_diff import spectrum
from memit_vc.objects import BaseManifest, EditableWeight

weights = [
    EditableWeight(name=name, parameter=name, layer=0, orientation="out_in", d_out=d_out, d_in=d_in, dtype="F32",
                   quantum=QUANTA[name])
    for name, (d_out, d_in) in SHAPES.items()
]
path = Path(sys.argv[1])
for header, tensors in CASES.values():
    n = len(header.columns)
    blob = encode_patch(header, tensors)
    keys = {name: numbers(4, SHAPES[name][1], n) for name in header.weights}
    targets = {name: numbers(5, SHAPES[name][0], n) for name in header.weights}
    constraints = encode_constraints(keys, targets, numbers(6, n, SHAPES[next(iter(header.weights))][0]))
    patch = received_patch(blob, constraints, base=header.base, manifest=BaseManifest(tensors=()), weights=weights)
    path.write_bytes(blob)
    assert check_patch(path, patch) == []
    for name in header.weights:
        terms = [read_weight(path, (), name), *read_pieces(path, (), name)]
        assert spectrum(terms[:1], terms[1:]) == ()
        columns = [term for term in terms if isinstance(term, LowRank)]
        stacked(columns, *SHAPES[name])
    path.write_bytes(constraints)
    assert read_constraints(path, (1, 0)).n == 2
    joined = Constraints.joined([read_constraints(path), read_constraints(path, (0,))])
    encode_constraints(joined.keys, joined.targets, joined.z)
print(sorted({"torch", "transformers", "alembic", "safetensors"} & set(sys.modules)))
"""


def test_patches_need_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "blob")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
