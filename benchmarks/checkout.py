"""Checkouts of a large sharded checkpoint: what is written, how long it takes, how much memory.

    python benchmarks/checkout.py [--gigabytes 8] [--repetitions 3] [--directory DIR]

Makes a synthetic checkpoint of bfloat16 tensors in five shards under DIR (by default the system's temporary directory),
then splits it, checks a state out, checks others out, of ten and of a hundred columns, and one of thousands, each in a
process of its own, and prints the ratios that are promised (1 or less is kept): bytes written against 1.02 times the
edited tensors' and 1 MB, a further checkout against 1.3 times a copy of its hot shard with fsync (copies right before
and right after it, the median of all repetitions), peak memory against 600 MB. Linux.

A copy keeps one processor busy, a checkout all of them: on a machine that others use as well the second ratio says as
much about them. So the processor seconds of each are recorded, and the share of the machine that others had.

Tensors that are not edited are zeros in sparse files, which the split copies out in full where they share a shard with
an edited one: some 60 % of the size is needed on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

EDITED, D_MODEL, D_FF, SHARDS = (4, 5, 6, 7, 8), 4096, 14336, 5
FEW, RANK, MANY = 10, 100, 2000
"""Columns of the states: a batch of ten facts, a hundred facts, thousands."""
RESULTS = Path(__file__).parent / "results" / "checkout.json"
HOT = "model-hot.safetensors"


def make(root: Path, gigabytes: float) -> dict[str, Any]:
    """The checkpoint, and the editable weights as a history would know them."""
    import torch

    from memit_vc.numerics.exact.grid import quantum
    from memit_vc.objects import EditableWeight
    from memit_vc.store.safetensors_file import parse_header, write_header

    d_model, d_ff = (D_MODEL, D_FF) if gigabytes >= 4 else (D_MODEL // 4, D_FF // 4)
    layers = max(max(EDITED) + 1, round(gigabytes * 1e9 / (2 * (3 * d_model * d_ff + 2 * d_model * d_model))))
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (d_ff, d_model) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (d_model, d_ff)
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (d_model, d_model) for name in ("q", "o")}
    edited = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in EDITED]
    names, index, total = list(shapes), {}, 0
    generator = torch.Generator().manual_seed(0)
    largest = dict.fromkeys(edited, 0.0)
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for number in range(SHARDS):
        part = names[number * len(names) // SHARDS : (number + 1) * len(names) // SHARDS]
        file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        index |= dict.fromkeys(part, file)
        head = write_header({name: ("BF16", shapes[name]) for name in part}, {"format": "pt"})
        size = len(head) + sum(2 * rows * columns for rows, columns in (shapes[name] for name in part))
        header = parse_header(head, size, source=file)
        total += size
        with (root / "model" / file).open("wb") as shard:
            shard.write(head)
            shard.truncate(size)
            for name in set(part) & set(edited):
                shard.seek(header.data_start + header.tensors[name].begin)
                for _ in range(d_model // 64):
                    block = (torch.randn(64, d_ff, generator=generator) * 0.02).bfloat16()
                    largest[name] = max(largest[name], float(block.abs().max()))
                    shard.write(block.view(torch.uint8).numpy().tobytes())
    (root / "model" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    weights = [
        EditableWeight(
            name=name,
            parameter=name,
            layer=layer,
            orientation="out_in",
            d_out=d_model,
            d_in=d_ff,
            dtype="BF16",
            quantum=quantum(largest[name]),
        ).to_json()
        for layer, name in zip(EDITED, edited, strict=True)
    ]
    (root / "weights.json").write_text(json.dumps(weights))
    return {"checkpoint_bytes": total, "edited_bytes": len(edited) * 2 * d_model * d_ff}


def write_patches(root: Path, name: str, seed: int, columns: int) -> dict[str, Any]:
    """A state of random factors, RANK columns at most in each patch, as a repository would keep them."""
    import torch

    from memit_vc.numerics.exact.factored import LowRank
    from memit_vc.numerics.exact.grid import snap
    from memit_vc.numerics.exact.patchfile import encode_patch
    from memit_vc.objects import BaseId, FactId, PatchColumn, PatchHeader, WeightForm

    weights = editable(root)
    generator = torch.Generator().manual_seed(seed)
    (root / "patches" / name).mkdir(parents=True)
    width = min(RANK, columns)
    for number in range(columns // width):
        terms = {}
        for weight in weights:
            left = torch.randn(weight.d_out, width, generator=generator) * 0.01
            right = torch.randn(width, weight.d_in, generator=generator) * 0.01
            terms[weight.name] = LowRank(*snap(left.numpy(), right.numpy(), weight.quantum))
        header = PatchHeader(
            base=BaseId("0" * 64),
            weights={
                w.name: WeightForm(form="low_rank", d_out=w.d_out, d_in=w.d_in, quantum=w.quantum) for w in weights
            },
            columns=tuple(PatchColumn(fact=FactId(f"{fact:064x}")) for fact in range(width)),
            provenance=None,
        )
        (root / "patches" / name / f"{number:04}").write_bytes(encode_patch(header, terms))
    return {}


def check_out(root: Path, name: str, seed: int) -> dict[str, Any]:
    """The state of `write_patches`, with the cache that a repository would give it."""
    from memit_vc.numerics.exact.update import StateTerms
    from memit_vc.numerics.output.checkout import checkout
    from memit_vc.objects import PatchId, StateId

    weights, patches = editable(root), root / "patches" / name
    selection = [(PatchId(path.name), ()) for path in sorted(patches.iterdir())]
    before, processor, others, began = written(), time.process_time(), busy_seconds(), time.perf_counter()
    result = checkout(
        root / "base",
        weights,
        lambda wanted: StateTerms(lambda patch: patches / patch, selection, wanted),
        root / name,
        record={"state": name},
        cache=root / "cache",
        state=StateId(f"{seed:064}"),
    )
    seconds = time.perf_counter() - began
    processor = time.process_time() - processor
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "share_of_others": (busy_seconds() - others - processor) / (seconds * (os.cpu_count() or 1)),
        "written": written() - before,
        "rss_mb": peak(),
        "links": sorted(set(result.links.values())),
    }


def busy_seconds() -> float:
    """Processor seconds that everybody on this machine has used since it started."""
    user, nice, system, _idle, _iowait, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def split(root: Path) -> dict[str, Any]:
    from memit_vc.numerics.output.checkout import prepare_base
    from memit_vc.store.checkpoint import Checkpoint

    began = time.perf_counter()
    prepare_base(Checkpoint.find(root / "model"), editable(root), root / "base")
    return {"seconds": time.perf_counter() - began, "rss_mb": peak()}


def editable(root: Path) -> list[Any]:
    from memit_vc.objects import EditableWeight

    return [EditableWeight.from_json(record) for record in json.loads((root / "weights.json").read_text())]


def written() -> int:
    """Bytes that this process has passed to write(2)."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["wchar"])


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def copy_seconds(source: Path, target: Path) -> float:
    """What no checkout can beat: the same bytes, copied with fsync."""
    began = time.perf_counter()
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 23)
        writer.flush()
        os.fsync(writer.fileno())
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def state(root: Path, name: str, gigabytes: float, columns: int = RANK) -> dict[str, Any]:
    run(f"patches-{name}", root, gigabytes, columns)
    return run(f"checkout-{name}", root, gigabytes)


def run(stage: str, root: Path, gigabytes: float, columns: int = RANK) -> dict[str, Any]:
    command = [sys.executable, __file__, "--stage", stage, "--directory", str(root), "--gigabytes", str(gigabytes)]
    command += ["--columns", str(columns)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(root: Path, gigabytes: float, repetitions: int) -> dict[str, Any]:
    sizes = run("make", root, gigabytes)
    steps = {"split": run("split", root, gigabytes), "first": state(root, "first", gigabytes)}
    rounds = []
    for number, columns in enumerate([FEW, RANK] * repetitions):
        run(f"patches-again{number}", root, gigabytes, columns)
        before = copy_seconds(root / "first" / HOT, root / "copy")
        again = run(f"checkout-again{number}", root, gigabytes)
        after = copy_seconds(root / f"again{number}" / HOT, root / "copy")
        shutil.rmtree(root / f"again{number}")
        copies = {"copy_seconds": [before, after], "ratio": again["seconds"] / ((before + after) / 2)}
        rounds.append({"columns": columns, **again, **copies})
    shutil.rmtree(root / "cache")
    steps["many"] = state(root, "many", gigabytes, MANY)
    steps["many"]["columns"] = MANY
    every = [*steps.values(), *rounds]
    copies = [seconds for each in rounds for seconds in each["copy_seconds"]]
    return {
        **sizes,
        "shards": SHARDS,
        "rank": RANK,
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(terse=True), "load": os.getloadavg()[0]},
        "steps": steps,
        "further": rounds,
        "medians": {
            "copy_seconds": median(copies),
            **{f"further_of_{columns}_columns": _medians(rounds, columns) for columns in (FEW, RANK)},
        },
        "ratios": {
            "written_to_promise": max(step.get("written", 0) for step in (steps["first"], *rounds))
            / (1.02 * sizes["edited_bytes"] + 1e6),
            **{
                f"further_of_{columns}_columns_to_promise": _medians(rounds, columns)["ratio"] / 1.3
                for columns in (FEW, RANK)
            },
            "memory_to_promise": max(step["rss_mb"] for step in every if "rss_mb" in step) / 600,
        },
    }


def _medians(rounds: list[dict[str, Any]], columns: int) -> dict[str, float]:
    return {
        name: median(each[name] for each in rounds if each["columns"] == columns)
        for name in ("seconds", "processor_seconds", "ratio")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where to work; everything made there is deleted")
    parser.add_argument("--columns", type=int, default=RANK, help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage is not None:
        stage, _, number = options.stage.partition("-")
        stages = {
            "make": lambda root: make(root, options.gigabytes),
            "split": split,
            "patches": lambda root: write_patches(root, number, len(number) + sum(map(ord, number)), options.columns),
            "checkout": lambda root: check_out(root, number, len(number) + sum(map(ord, number))),
        }
        print(json.dumps(stages[stage](options.directory)))
        return
    root = Path(tempfile.mkdtemp(prefix="memitvc-checkout-", dir=options.directory))
    try:
        results = measure(root, options.gigabytes, options.repetitions)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
