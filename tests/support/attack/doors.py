"""Every door for the bytes of others, and how a valid input is changed before it is handed in there."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memit_vc.cli import main
from memit_vc.edits import read_edits
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.statistics.corpus import open_corpus
from memit_vc.remote.container import write_container
from memit_vc.remote.manifest import BASE, MANIFEST, commit_path, object_path
from tests.support.attack.changes import altered, as_canonical, spoilt
from tests.support.attack.remotes import KINDS
from tests.support.forge import Forge
from tests.support.ggufs import write_base
from tests.support.models import FACTS, SENTENCES
from tests.support.remotes import World

__all__ = ["DOORS", "Inputs"]

Strike = Callable[[random.Random], object]
"""Changes an input and hands it in. Returns the exit code of a command line, or what a reader made of it."""


@dataclass(frozen=True)
class Inputs:
    """What is handed in: a copy of `clean`, in which the strikes change files. `work` and `empty` are repositories."""

    clean: World
    place: Path

    @property
    def shared(self) -> Path:
        return self.place / "shared"

    @property
    def work(self) -> Path:
        return self.place / "work"

    @property
    def empty(self) -> Path:
        return self.place / "empty"

    def fresh(self, name: str) -> Path:
        """A new copy of one of the world's directories, which points to the copy of the remote."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        source: Path = getattr(self.clean, name)
        shutil.copytree(source, self.place / name)
        file = self.place / name / ".memitvc" / "config.toml"
        if file.exists():
            file.write_text(file.read_text().replace(str(self.clean.shared), str(self.shared)))
        return self.place / name

    def forged(self, chance: random.Random) -> Path:
        """The remote with something in it changed."""
        shared = self.fresh("shared")
        chance.choice(KINDS)(Forge(shared), chance)
        return shared

    def run(self, directory: Path, *line: str | Path) -> int:
        return main(["-C", str(directory), *map(str, line)])


def fetch(inputs: Inputs) -> Strike:
    def strike(chance: random.Random) -> int:
        inputs.forged(chance)
        return inputs.run(inputs.empty, "fetch")

    return strike


def patch_file(inputs: Inputs) -> Strike:
    def strike(chance: random.Random) -> int:
        root, file = inputs.forged(chance), inputs.place / "a.patch"
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        with suppress(Exception):  # a manifest that is no such thing any more
            record = json.loads(files[MANIFEST])
            record["refs"] = {"heads/patch": record["refs"].pop("heads/main"), **record["refs"]}
            files[MANIFEST] = as_canonical({**record, "default": "patch"})
        write_container(file, {name: files[name] for name in needed(files)})
        if chance.random() < 0.3:
            file.write_bytes(spoilt(file.read_bytes(), chance))
        return inputs.run(inputs.empty, "import", file)

    return strike


def needed(files: dict[str, bytes]) -> list[str]:
    """What the manifest reaches: all that a patch file may hold."""
    found: list[str] = []
    with suppress(Exception):  # damaged, and as such handed in
        tips = list(json.loads(files[MANIFEST])["refs"].values())
        while tips:
            name = commit_path(tips.pop())
            if name not in found:
                record = json.loads(files[name])
                tips += record["commit"]["parents"]
                held = [*record["patches"], *record["patches"].values(), record["commit"]["provenance"]]
                found += [name, *(object_path(each) for each in held if each is not None)]
    return [MANIFEST, *(name for name in dict.fromkeys(found) if name in files)]


def clone(inputs: Inputs) -> Strike:
    def strike(chance: random.Random) -> int:
        shared, copy = inputs.fresh("shared"), inputs.place / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        name = chance.choice((BASE, BASE, "hparams.yaml"))
        data = (shared / name).read_bytes()
        structured = name == BASE and chance.random() < 0.6
        changed = as_canonical(altered(json.loads(data), chance)) if structured else spoilt(data, chance)
        Forge(shared).write(name, changed)
        code = inputs.run(inputs.place, "clone", shared, copy, "--base", inputs.clean.base)
        assert code == 0 or not copy.exists(), "a refused clone leaves something"
        return code

    return strike


def push(inputs: Inputs) -> Strike:
    """Somebody else can write to the remote: its files are read before a push."""

    def strike(chance: random.Random) -> int:
        shared = inputs.fresh("shared")
        name = chance.choice((MANIFEST, BASE, "README.md", "hparams.yaml", "adapter_config.json"))
        Forge(shared).write(name, spoilt((shared / name).read_bytes(), chance))
        return inputs.run(inputs.work, "push", "origin", chance.choice(("main", "other")))

    return strike


def changed_file(name: str, data: bytes, chance: random.Random) -> bytes:
    """A file of a model or an adapter: mostly its values, or its header."""
    if name.endswith(".json") and chance.random() < 0.6:
        return as_canonical(altered(json.loads(data), chance))
    if name.endswith(".safetensors") and chance.random() < 0.8:
        return spoilt(data[:4000], chance) + data[4000:]
    return spoilt(data, chance)


def base(inputs: Inputs) -> Strike:
    """A directory with a model, as a stranger hands it over."""
    clean, changed, new = inputs.clean.base, inputs.place / "base", inputs.place / "new"
    names = sorted(path.name for path in clean.iterdir() if path.is_file())

    def strike(chance: random.Random) -> int:
        for path in (changed, new):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(clean, changed)
        name = chance.choice(names)
        (changed / name).write_bytes(changed_file(name, (changed / name).read_bytes(), chance))
        code = inputs.run(inputs.place, "init", changed, new)
        assert code == 0 or not new.exists(), "a refused init leaves something"
        return code

    return strike


def model(inputs: Inputs) -> Strike:
    """A directory that is said to be a state."""
    clean, changed = inputs.place / "checked-out", inputs.place / "model"
    shutil.rmtree(clean, ignore_errors=True)  # of an earlier process
    assert inputs.run(inputs.fresh("work"), "checkout", "main", "-o", clean) == 0
    names = sorted(path.name for path in clean.iterdir() if path.suffix in (".json", ".safetensors"))

    def strike(chance: random.Random) -> int:
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(clean, changed)
        name = chance.choice((*names, "memitvc.json"))
        data = (changed / name).read_bytes()
        if name.endswith(".json") and chance.random() < 0.6:
            data = as_canonical(altered(json.loads(data), chance))
        else:
            data = spoilt(data[:4000], chance) + data[4000:]
        Forge(changed).write(name, data)
        line = chance.choice((["verify", changed], ["checkout", "main~1", "--in-place", changed]))
        code = inputs.run(inputs.work, *line)
        return 0 if code == 15 else code  # "is no state" is an answer, and hashes of states are remembered

    return strike


def gguf(inputs: Inputs) -> Strike:
    clean, changed = inputs.place / "base.gguf", inputs.place / "changed.gguf"
    write_base(clean, inputs.clean.base, "llama")
    data = clean.read_bytes()

    def strike(chance: random.Random) -> int:
        changed.write_bytes(
            spoilt(data[:6000], chance) + data[6000:] if chance.random() < 0.8 else spoilt(data, chance)
        )
        (inputs.place / "edited.gguf").unlink(missing_ok=True)
        return inputs.run(inputs.work, "export", "--gguf", inputs.place / "edited.gguf", "--base-gguf", changed)

    return strike


def own_files(inputs: Inputs) -> Strike:
    """What a user writes by hand, or a repository that came as a copy: its small files."""

    def strike(chance: random.Random) -> int:
        root = inputs.fresh("empty") / ".memitvc"
        name = chance.choice(("config.toml", "hparams.yaml", "format", "base.json", "journal"))
        (root / name).write_bytes(spoilt((root / name).read_bytes(), chance))
        line = chance.choice((["status"], ["log"], ["remote"], ["gc", "--dry-run"], ["fsck"], ["facts"], ["fetch"]))
        try:
            code = inputs.run(inputs.empty, *line)
        finally:
            inputs.fresh("empty")
        return 0 if line == ["fsck"] and code == 12 else code  # its findings are the answer

    return strike


RECORDS: tuple[Any, ...] = (
    [fact.to_json() for fact in FACTS],
    [{"prompt": "{} lies in", "subject": "Sarn", "target_new": {"str": "Tyr"}, "target_true": {"str": "Rome"}}],
    [
        {
            "case_id": 1,
            "requested_rewrite": {
                "prompt": "{} is in",
                "subject": "Sarn",
                "target_new": {"str": "Tyr", "id": "Q1"},
                "target_true": {"str": "Rome"},
            },
            "paraphrase_prompts": ["Where is Sarn? It is in"],
            "neighborhood_prompts": ["Pellan is in"],
        }
    ],
    [{"subject": "Sarn", "src": "Where is Sarn?", "alt": "Tyr", "answers": ["Rome"], "rephrase": "Sarn, where?"}],
    [
        {
            "case_id": 1,
            "requested_rewrite": [
                {"prompt": "{} is a citizen of", "subject": "Ellie", "target_new": {"str": "Croatia"}},
                {"prompt": "{} plays", "subject": "Ellie", "target_new": {"str": "chess"}},
            ],
            "questions": ["Where?"],
        }
    ],
    {"prompts": ["Sarn is in"], "subject": ["Sarn"], "target_new": ["Tyr"]},
)
CSV = "prompt,subject,target_new,ground_truth,rephrase_prompt\nSarn is in,Sarn,Tyr,nan,\"['Where is Sarn?', 'x']\"\n"


def edits(inputs: Inputs) -> Strike:
    def strike(chance: random.Random) -> object:
        file = inputs.place / "edits"
        records, form = chance.choice(RECORDS), chance.random()
        if form < 0.3:
            data = as_canonical(altered(records, chance))
        elif form < 0.5 and isinstance(records, list):
            data = b"\n".join(as_canonical(altered(each, chance)) for each in records)
        else:
            text = chance.choice((CSV, json.dumps(records), json.dumps(records, indent=1)))
            encoding = chance.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16"))
            data = spoilt(text.encode(encoding), chance)
        file.write_bytes(data)
        found = read_edits(file)
        controls = {
            c for fact in found.facts for c in fact.prompt + fact.subject + fact.target if c < " " or c == "\x7f"
        }
        assert not controls - {"\n", "\t", "\r"}, f"control characters {controls}"
        return found

    return strike


def hparams(inputs: Inputs) -> Strike:
    data = (inputs.clean.work / ".memitvc" / "hparams.yaml").read_bytes()

    def strike(chance: random.Random) -> object:
        file = inputs.place / "some.yaml"
        file.write_bytes(spoilt(spoilt(data, chance) if chance.random() < 0.3 else data, chance))
        return MEMITHyperParams.from_hparams(file)

    return strike


def corpus(inputs: Inputs) -> Strike:
    records = [{"id": number, "text": text} for number, text in enumerate(SENTENCES)]
    kinds = {
        ".txt": "\n\n".join(SENTENCES).encode(),
        ".json": json.dumps(records).encode(),
        ".jsonl": "\n".join(map(json.dumps, records)).encode(),
    }
    with suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": list(SENTENCES)}), inputs.place / "clean.parquet")
        kinds[".parquet"] = (inputs.place / "clean.parquet").read_bytes()

    def strike(chance: random.Random) -> object:
        suffix = chance.choice(sorted(kinds))
        file = inputs.place / f"corpus{suffix}"
        file.write_bytes(spoilt(kinds[suffix], chance))
        return [len(text) for text in open_corpus(str(file))]

    return strike


def moments(inputs: Inputs) -> Strike:
    """EasyEdit's statistics."""
    import io

    import numpy as np

    source = inputs.place / "stats"
    source.mkdir(exist_ok=True)
    made = io.BytesIO()
    side = 160
    np.savez(
        made,
        **{
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "mom2.count": np.array(4000),
            "mom2.mom2": (np.eye(side) * 4000).astype(np.float32),
            "sample_size": np.array(100),
        },
    )
    names = [f"model.layers.{layer}.mlp.down_proj_float32_mom2_100.npz" for layer in (1, 2)]
    inputs.fresh("work")

    def strike(chance: random.Random) -> int:
        for name in names:
            (source / name).write_bytes(made.getvalue())
        (source / chance.choice(names)).write_bytes(spoilt(made.getvalue(), chance))
        return inputs.run(inputs.work, "stats", "--import", source)

    return strike


def adapter(inputs: Inputs) -> Strike:
    """Somebody's LoRA."""
    from tests.support.models.loras import lora

    clean, changed = inputs.place / "lora", inputs.place / "changed-lora"
    lora(inputs.clean.base, "llama", clean, r=2)
    names = sorted(path.name for path in clean.iterdir() if path.is_file())
    inputs.fresh("empty")

    def strike(chance: random.Random) -> int:
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(clean, changed)
        name = chance.choice(("adapter_config.json", "adapter_model.safetensors", *names))
        (changed / name).write_bytes(changed_file(name, (changed / name).read_bytes(), chance))
        return inputs.run(inputs.empty, "import", "--adapter", changed)

    return strike


DOORS: Sequence[tuple[str, Callable[[Inputs], Strike], int]] = (
    ("edits", edits, 30),
    ("fetch", fetch, 14),
    ("import", patch_file, 10),
    ("hparams", hparams, 14),
    ("corpus", corpus, 10),
    ("own files", own_files, 6),
    ("clone", clone, 4),
    ("push", push, 4),
    ("model", model, 3),
    ("base", base, 2),
    ("gguf", gguf, 2),
    ("adapter", adapter, 4),
    ("moments", moments, 1),
)
"""Name, what prepares it, and how many of a hundred inputs come here: fewer where a model is loaded."""
