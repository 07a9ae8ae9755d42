"""A remote that lies: refused with exit code 12 or 14, with a reason, before anything is stored."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli import main
from memit_vc.errors import HparamsError, IntegrityError, MemitVCError
from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.objects import digest
from memit_vc.porcelain.sharing import received_history
from memit_vc.porcelain.sharing.clone import clone
from memit_vc.porcelain.sharing.fetch import fetch
from memit_vc.porcelain.sharing.incoming import Incoming
from memit_vc.porcelain.sharing.pull import pull
from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
from memit_vc.remote.manifest import MANIFEST, commit_path, object_path
from memit_vc.repository import Repository
from memit_vc.store.blobs import blob_id
from memit_vc.store.measured import are_explanations
from tests.support.forge import Forge
from tests.support.places import contents
from tests.support.remotes import World, canonical

NAN, INFINITE = float("nan"), float("inf")


def refused(world: World, reason: str, *, verb: Callable[..., object] = fetch) -> MemitVCError:
    """Fetching stops for a reason that contains `reason`, and the repository is what it was, to the last row."""
    before = contents(world.empty)
    with Repository.open(world.empty) as repository:
        with pytest.raises(MemitVCError) as caught:
            verb(repository)
        assert repository.orphans() == []
    assert contents(world.empty) == before
    assert list(world.empty.rglob("cache/incoming/*")) == []
    assert reason in caught.value.message
    assert caught.value.exit_code in (12, 14)
    assert caught.value.hint
    return caught.value


def test_it_is_taken_where_nobody_lies(world: World) -> None:
    with Repository.open(world.empty) as repository:
        pull(repository)
        assert repository.head().commit == Forge(world.shared).tip


Blow = tuple[str, Callable[[Forge], object]]


def factor(value: float) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[min(tensors)][0, 0] = value

    return change


def scaled(tensors: dict[str, Any]) -> None:
    name = min(tensors)
    tensors[name] = tensors[name] * (1 + 2.0**-20)


def longer(tensors: dict[str, Any]) -> None:
    name = next(name for name in sorted(tensors) if name.endswith(".left"))
    tensors[name] = tensors[name].repeat(2, 1)


def taller(forge: Forge) -> None:
    """Factors of another height, and a header that says so."""

    def header(record: dict[str, Any]) -> None:
        record["weights"][min(record["weights"])]["d_out"] *= 2

    forge.repacked(longer, header)


def claims(forge: Forge) -> None:
    """A header length of 2^60 bytes."""
    forge.with_patch((1 << 60).to_bytes(8, "little") + forge.patch()[1][8:])


def entries(forge: Forge) -> None:
    """Tensors of 2^60 entries."""
    data = forge.patch()[1]
    length = int.from_bytes(data[:8], "little")
    record = json.loads(data[8 : 8 + length])
    for name, entry in record.items():
        if name != "__metadata__":
            entry["shape"] = [1 << 30, 1 << 30]
    head = json.dumps(record).encode()
    forge.with_patch(len(head).to_bytes(8, "little") + head + data[8 + length :])


def spoil(path: Callable[[Forge], str], change: Callable[[bytes], bytes]) -> Callable[[Forge], None]:
    def blow(forge: Forge) -> None:
        forge.write(path(forge), change((forge.root / path(forge)).read_bytes()))

    return blow


def patch_path(forge: Forge) -> str:
    return object_path(forge.patch()[0])


def provenance_path(forge: Forge) -> str:
    return object_path(forge.record(forge.newest_edit())["commit"]["provenance"])


def tip_path(forge: Forge) -> str:
    return commit_path(forge.tip)


def field(name: str, value: object) -> Callable[[Forge], object]:
    return lambda forge: forge.edit(lambda record: record["commit"].update({name: value}))


def whole(name: str, value: object) -> Callable[[Forge], object]:
    return lambda forge: forge.edit(lambda record: record.update({name: value}))


def publishes(name: str, value: object) -> Callable[[Forge], object]:
    return lambda forge: forge.publish(lambda record: record.update({name: value}))


def ref(name: str, commit: str | None = None) -> Callable[[Forge], object]:
    return lambda forge: forge.publish(lambda record: record["refs"].update({name: commit or forge.tip}))


def source(name: str, revision: str) -> Callable[[Forge], object]:
    return lambda forge: forge.publish(lambda record: record["base"].update({"source": name, "revision": revision}))


def grow(path: Callable[[Forge], str], size: int) -> Callable[[Forge], None]:
    def blow(forge: Forge) -> None:
        target = forge.root / path(forge)
        target.chmod(0o644)
        os.truncate(target, size)

    return blow


def linked(forge: Forge) -> None:
    target = forge.root / patch_path(forge)
    target.rename(forge.root.parent / "elsewhere")
    target.symlink_to(forge.root.parent / "elsewhere")


def forgotten_fact(record: dict[str, Any]) -> None:
    record["facts"] = record["facts"][1:]


def other_fact(record: dict[str, Any]) -> None:
    record["facts"][0]["target_new"] = "something else"


def fact_field(name: str, value: object) -> Callable[[Forge], object]:
    """A fact whose field says something else, with a column of its own id in the patch."""
    return lambda forge: forge.edit(lambda record: record["facts"][0].update({name: value}))


def added_and_removed(record: dict[str, Any]) -> None:
    record["commit"]["removes"] = record["commit"]["adds"]


def removed_from_nothing(record: dict[str, Any]) -> None:
    """The columns are known, but the state before does not have them."""
    record["commit"].update(removes=record["commit"]["adds"], adds=[])


def scores(forge: Forge) -> None:
    side = {"facts": {}, "total": {"ES": "all"}, "error": {}, "perplexity": None, "probe": ""}
    forge.edit(lambda record: record.update({"scores": {"before": side, "after": side, "why": {}}}))


def no_sink(forge: Forge) -> None:
    """The field is there only to say yes."""
    side = {"facts": {}, "total": {}, "error": {}, "perplexity": None, "probe": ""}
    why = {HEX: {"leverage": {}, "left": 0.5, "agreement": None, "loss": 0.1, "sink": False}}
    assert are_explanations({HEX: {**why[HEX], "sink": True}})
    forge.edit(lambda record: record.update({"scores": {"before": side, "after": side, "why": why}}))


def under_another_name(forge: Forge) -> None:
    forge.write(tip_path(forge), (forge.root / commit_path(forge.newest_edit())).read_bytes())


def own_parent(forge: Forge) -> None:
    name = forge.tip
    record = forge.record(name)
    record["commit"]["parents"] = [name]
    forge.write(commit_path(name), canonical(record))


HEX = "ab" * 32
BLOWS: dict[str, Blow] = {
    "a flipped byte": ("not what its name says", spoil(patch_path, lambda d: d[:-1] + bytes([d[-1] ^ 1]))),
    "a short object": ("not what its name says", spoil(patch_path, lambda d: d[:-1])),
    "a longer object": ("not what its name says", spoil(patch_path, lambda d: d + b"\0")),
    "spoilt provenance": ("not what its name says", spoil(provenance_path, lambda d: d + b" ")),
    "an object gone": ("lacks object", lambda f: (f.root / patch_path(f)).unlink()),
    "a symbolic link": ("links out of a remote are not followed", linked),
    "a header of 2^60 bytes": ("cut short", claims),
    "tensors of 2^60 entries": ("does not fill bytes", entries),
    "a terabyte": ("bytes", grow(patch_path, 1 << 42)),
    "NaN": ("holds NaN or infinity", lambda f: f.repacked(factor(NAN))),
    "infinity": ("holds NaN or infinity", lambda f: f.repacked(factor(INFINITE))),
    "off the grid": ("off the grid", lambda f: f.repacked(scaled)),
    "another shape": ("the base has", taller),
    "a shape that the header denies": ("its header says", lambda f: f.repacked(longer)),
    "a weight of another name": (
        "is not an editable weight of this base",
        lambda f: f.repacked(
            lambda t: t.update({k.replace("down_proj", "up_proj"): t.pop(k) for k in sorted(t)}),
            lambda h: h.update(weights={k.replace("down_proj", "up_proj"): v for k, v in h["weights"].items()}),
        ),
    ),
    "a patch of another base": ("belongs to base", lambda f: f.repacked(header=lambda h: h.update(base=HEX))),
    "an unknown patch format": ("patch format 9", lambda f: f.repacked(header=lambda h: h.update(format=9))),
    "no patch at all": ("patch", lambda f: f.with_patch(b"PK\3\4" + bytes(100))),
    "an empty patch": ("cut short", lambda f: f.with_patch(b"")),
    "a commit gone": ("lacks commit", lambda f: (f.root / tip_path(f)).unlink()),
    "a parent gone": ("lacks commit", field("parents", [HEX])),
    "its own parent": ("is another commit", own_parent),
    "a commit under another's name": ("is another commit", under_another_name),
    "a commit of another base": ("belongs to base", field("base", HEX)),
    "an unknown commit format": ("commit format 2", field("format", 2)),
    "a second root": ("no parents", field("parents", [])),
    "a root of a kind": ("no parents", field("kind", "root")),
    "a parent twice": ("twice", lambda f: f.edit(lambda r: r["commit"].update(parents=r["commit"]["parents"] * 2))),
    "a column twice": ("twice", lambda f: f.edit(lambda r: r["commit"].update(adds=sorted(r["commit"]["adds"] * 2)))),
    "a path for a parent": ("of another type", field("parents", ["../../../etc/passwd"])),
    "a path for a patch": ("patches", whole("patches", {"../../../etc/passwd": None})),
    "a path for constraints": (
        "patches",
        lambda f: f.edit(lambda r: r["patches"].update(dict.fromkeys(r["patches"], "../x"))),
    ),
    "a column from nowhere": ("no patch holds", field("adds", [HEX])),
    "added and removed": ("both adds and removes", lambda f: f.edit(added_and_removed)),
    "removed from nothing": ("not in its parent's state", lambda f: f.edit(removed_from_nothing)),
    "a fact gone": ("lacks fact", lambda f: f.edit(forgotten_fact)),
    "another fact": ("lacks fact", lambda f: f.edit(other_fact)),
    "a fact without its subject": (
        "does not occur",
        lambda f: f.edit(lambda r: r["facts"][0].update(subject="nobody")),
    ),
    "facts that are none": ("fact 1", whole("facts", [[]])),
    "phrasings that are numbers": ("phrasings holds what is not text", fact_field("phrasings", [5])),
    "phrasings without the subject": ("does not occur in phrasing", fact_field("phrasings", ["nobody is in"])),
    "clean paraphrases that are numbers": (
        "clean_paraphrase_prompts holds what is not text",
        fact_field("clean_paraphrase_prompts", [7]),
    ),
    "generation prompts that are objects": (
        "generation_prompts holds what is not text",
        fact_field("generation_prompts", [{"a": 1}]),
    ),
    "a NUL in a paraphrase": ("paraphrase_prompts holds what is not text", fact_field("paraphrase_prompts", ["a\0b"])),
    "a blank paraphrase": ("or a blank one", fact_field("paraphrase_prompts", [" "])),
    "a neighbour that is a number": (
        "neighborhood_prompts holds what is not text",
        fact_field("neighborhood_prompts", [{"prompt": 5}]),
    ),
    "a neighbour's answer that is a number": (
        "ground_truth is not text",
        fact_field("neighborhood_prompts", [{"prompt": "x", "ground_truth": 5}]),
    ),
    "a blank target": ("or a blank one", fact_field("target_new", "")),
    "an occurrence of a million digits": ("fact 1", fact_field("subject_occurrence", 1 << 40)),
    "scores in words": ("scores", scores),
    "a sink that is none": ("scores cannot be read", no_sink),
    "scores of another kind": ("scores", whole("scores", [1])),
    "scores handed on in words": ("scores", whole("brought", {"before": {}, "after": {HEX: {"ES": "all"}}})),
    "scores handed on of nothing": ("scores", whole("brought", {"before": {}, "after": {"a fact": {}}})),
    "scores handed on of another kind": ("scores", whole("brought", None)),
    "a record in other spelling": ("is not canonical JSON", spoil(tip_path, lambda d: d + b"\n")),
    "a record that is no JSON": ("not JSON", spoil(tip_path, lambda d: d[:-2])),
    "a record of depth": ("nested too deeply", spoil(tip_path, lambda d: b"[" * 1_000_000)),
    "a record of a gigabyte": ("bytes", grow(tip_path, 1 << 30)),
    "a number of many digits": ("not JSON", spoil(tip_path, lambda d: b'{"commit":' + b"9" * 100_000 + b"}")),
    "a manifest of depth": ("nested too deeply", lambda f: f.write(MANIFEST, b"[" * 1_000_000)),
    "a manifest of a gigabyte": ("bytes", grow(lambda _: MANIFEST, 1 << 30)),
    "an empty manifest": ("damaged", lambda f: f.write(MANIFEST, b"")),
    "a manifest in other spelling": ("damaged", spoil(lambda _: MANIFEST, lambda d: d + b"\n")),
    "an unknown format": ("format 2", publishes("format", 2)),
    "a format that is no number": ("damaged", publishes("format", True)),
    "more fields": ("damaged", publishes("more", 1)),
    "another base": ("about base", lambda f: f.publish(lambda r: r["base"].update(id=HEX))),
    "no default branch": ("damaged", publishes("default", "other")),
    "a path for a ref": ("damaged", ref("heads/../../../etc/passwd")),
    "an option for a branch": ("damaged", ref("heads/-x")),
    "a word for a time": ("not UTC in ISO 8601", field("time", "yesterday")),
    "a day that is none": ("not UTC in ISO 8601", field("time", "2026-02-30T00:00:00Z")),
    "a tracking ref": ("damaged", ref("remotes/origin/main")),
    "a path for a commit": ("damaged", ref("heads/x", "../../../etc/passwd")),
    "a ref to nowhere": ("lacks commit", ref("heads/x", HEX)),
    "a path for the base": ("damaged", source("../../etc", "0" * 40)),
    "a branch for the base's revision": ("damaged", source("owner/name", "main")),
}


@pytest.mark.parametrize("blow", BLOWS)
def test_hostile_content_is_refused(world: World, blow: str) -> None:
    reason, strike = BLOWS[blow]
    strike(Forge(world.shared))
    refused(world, reason)


def test_a_file_of_zeros_is_not_read_as_a_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a stranger nothing: on a disk it has holes."""
    zeros = bytes(1 << 16)
    Forge(world.shared).with_patch(zeros)
    read, name = Incoming.read, blob_id(zeros)
    monkeypatch.setattr(Incoming, "read", lambda self, blob: read(self, blob) if blob != name else pytest.fail("read"))
    refused(world, f"patch {name[:10]}: the header is not JSON")


def test_a_patch_that_does_not_fit_into_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_history, "free_ram", lambda: 1000)
    before = contents(world.empty)
    with Repository.open(world.empty) as repository:
        with pytest.raises(MemitVCError, match=r"to check it takes .* of memory, 1.0 kB are free"):
            fetch(repository)
        monkeypatch.undo()
        assert contents(world.empty) == before
        pull(repository)


def test_memory_that_runs_out_leaves_nothing_in_the_cache(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Incoming, "read", full)
    with Repository.open(world.empty) as repository, pytest.raises(MemoryError):
        fetch(repository)
    assert list(world.empty.rglob("cache/incoming/*")) == []


def test_facts_that_are_named_twice_do_not_allow_a_larger_patch(world: World) -> None:
    forge = Forge(world.shared)
    with Repository.open(world.empty) as repository:
        record = forge.record(forge.newest_edit())
        once = RemoteCommit.decode(canonical(record), forge.newest_edit(), "there")  # type: ignore[arg-type]
        record["facts"] *= 1000
        often = RemoteCommit.decode(canonical(record), forge.newest_edit(), "there")  # type: ignore[arg-type]
        assert received_history._most_bytes(repository, [often]) == received_history._most_bytes(repository, [once])


def test_names_that_stand_in_the_way_are_left_out(world: World) -> None:
    """Tags that would be taken for a branch, a remote's branch or a commit, and branches that nothing can track."""
    forge = Forge(world.shared)
    with Repository.open(world.empty) as repository:
        root = repository.head().commit
        names = ["tags/main", "tags/origin/main", f"tags/{root[:10]}", f"tags/{forge.tip[:7].upper()}"]
        names += ["tags/cafe", "heads/" + "b" * 245, "heads/cat", "heads/\u0441\u0430\u0442"]
        forge.publish(lambda record: record["refs"].update(dict.fromkeys(names, forge.tip)))
        found = fetch(repository)
        assert sorted(repository.refs()) == ["heads/main", "remotes/origin/cat", "remotes/origin/main", "tags/cafe"]
        assert len(found.notes) == 6
        assert repository.resolve("main") == root == repository.resolve(root[:10])
        assert repository.resolve("origin/main") == forge.tip == repository.resolve(forge.tip[:7])
        assert fetch(repository).notes == found.notes
        pull(repository)
        assert repository.head().commit == forge.tip


def test_a_clone_of_a_remote_with_such_names(world: World, tmp_path: Path) -> None:
    forge = Forge(world.shared)
    names = ["tags/main", "heads/" + "b" * 245]
    forge.publish(lambda record: record["refs"].update(dict.fromkeys(names, forge.newest_edit())))
    made = clone(str(world.shared), Path("copy"), base=str(world.base), start=tmp_path)
    assert len(made.notes) + len(made.fetched.notes) >= 2
    with Repository.open(tmp_path / "copy") as repository:
        assert sorted(repository.refs()) == ["heads/main", "remotes/origin/main"]
        assert repository.fsck(check_patch=check_patch) == []


def test_scores_without_the_usual_names_are_shown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    forge = Forge(world.shared)

    def change(record: dict[str, Any]) -> None:
        fact = digest("fact", canonical(record["facts"][0]))
        side = {"facts": {fact: {"x": 1}}, "total": {}, "error": {}, "perplexity": None, "probe": "p"}
        why = {fact: {"leverage": {}, "left": None, "agreement": None, "loss": None}}
        record["scores"] = {"before": side, "after": side, "why": why}

    forge.edit(change)
    with Repository.open(world.empty) as repository:
        pull(repository)
    assert main(["show", "--why", "-C", str(world.empty)]) == 0
    assert "let through" in capsys.readouterr().out


def test_a_history_in_a_circle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such thing has right ids, so the check of ids is put out of force."""
    forge = Forge(world.shared)
    own_parent(forge)
    decode = RemoteCommit.decode.__func__  # type: ignore[attr-defined]

    def trusting(data: bytes, name: Any, where: str) -> RemoteCommit:
        import memit_vc.porcelain.sharing.remote_commit as module

        record = json.loads(data)
        if record["commit"]["parents"] == [name]:
            made = module._parse_commit(record["commit"], where)
            monkeypatch.setattr(type(made), "id", name)
            return RemoteCommit(made, (), {}, None)
        return decode(RemoteCommit, data, name, where)  # type: ignore[no-any-return]

    monkeypatch.setattr(RemoteCommit, "decode", staticmethod(trusting))
    refused(world, "in a circle")


def test_sums_that_could_round(world: World) -> None:
    """Each patch is exact; the state that a commit makes of many is not."""
    import numpy as np

    from memit_vc.numerics.exact.factored import LowRank
    from memit_vc.numerics.exact.grid import snap
    from memit_vc.numerics.exact.patchfile import column_ids, encode_patch
    from memit_vc.objects import Fact, PatchColumn, PatchHeader, PatchId, WeightForm

    forge = Forge(world.shared)
    with Repository.open(world.empty) as repository:
        weight, base = repository.weights()[0], repository.base_id
    facts = [Fact(prompt=f"x{n} is", subject=f"x{n}", target="y") for n in range(200)]
    left = np.ones((weight.d_out, len(facts)))
    right = np.full((len(facts), weight.d_in), 2.0 ** (weight.quantum + 46))
    header = PatchHeader(
        base=base,
        weights={
            weight.name: WeightForm(form="low_rank", d_out=weight.d_out, d_in=weight.d_in, quantum=weight.quantum)
        },
        columns=tuple(PatchColumn(fact=fact.id) for fact in facts),
        provenance=None,
    )
    tensors = {weight.name: LowRank(*snap(left, right, weight.quantum))}
    data = encode_patch(header, tensors)
    columns = column_ids(PatchId(forge.put(data)), header, tensors)

    def change(record: dict[str, Any]) -> None:
        record["commit"].update(adds=sorted(columns), patches=[forge.put(data)], provenance=None)
        record.update(patches={forge.put(data): None}, facts=[fact.to_json() for fact in facts], scores=None)

    forge.edit(change)
    refused(world, "exact sums")


def test_a_pull_refuses_what_a_fetch_refuses(world: World) -> None:
    Forge(world.shared).repacked(factor(NAN))
    refused(world, "NaN", verb=pull)


@pytest.mark.parametrize("blow", ["a flipped byte", "NaN", "a parent gone", "an unknown format", "another fact"])
def test_a_clone_of_it_leaves_nothing(world: World, tmp_path: Path, blow: str) -> None:
    BLOWS[blow][1](Forge(world.shared))
    with pytest.raises(MemitVCError) as caught:
        clone(str(world.shared), Path("copy"), base=str(world.base), start=tmp_path)
    assert caught.value.exit_code in (12, 14)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("base.json", b"{}", "base.json"),
        ("base.json", b"[" * 1_000_000, "base.json"),
        ("hparams.yaml", b"[" * 5_000, "hparams.yaml"),
        ("hparams.yaml", b"\xff\xfe", "hparams.yaml"),
        ("hparams.yaml", b"!!python/object/apply:os.system ['echo']", "hparams.yaml"),
        ("hparams.yaml", b"layers: [100]\n", "hparams.yaml"),
    ],
)
def test_a_spoilt_base_or_setting_stops_a_clone(
    world: World, tmp_path: Path, path: str, data: bytes, reason: str
) -> None:
    Forge(world.shared).write(path, data)
    with pytest.raises(MemitVCError, match=reason) as caught:
        clone(str(world.shared), Path("copy"), base=str(world.base), start=tmp_path)
    assert caught.value.exit_code in (12, 14)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(("field", "value"), [("name", 5), ("name", None), ("file", ["a"]), ("file", 5)])
def test_a_clone_checks_what_the_remote_says_of_the_tensors(
    world: World, tmp_path: Path, field: str, value: object
) -> None:
    record = json.loads((world.shared / "base.json").read_bytes())
    record["manifest"][0][field] = value
    rows = [[t["name"], t["dtype"], t["shape"], t["sha256"]] for t in record["manifest"]]
    if all(isinstance(row[0], str) for row in rows):
        name = digest("base", canonical(sorted(rows)))
        Forge(world.shared).publish(lambda manifest: manifest["base"].update(id=name))
    refused_clone(world, tmp_path, record, "base.json is damaged")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("quantum", -40, "gives model.layers.0.mlp.down_proj.weight the grid of other values"),
        ("parameter", "model.layers.1.mlp.down_proj.weight", "does not list the weights of the model"),
        ("parameter", "lm_head.weight", "does not list the weights of the model"),
        ("name", "model.layers.1.mlp.down_proj.weight", "does not list the weights of the model"),
        ("layer", 1, "does not list the weights of the model"),
        ("layer", 70, "does not list the weights of the model"),
        ("orientation", "in_out", "base.json is damaged"),
        ("orientation", "sideways", "base.json is damaged"),
    ],
)
def test_a_clone_checks_what_the_remote_says_of_the_weights(
    world: World, tmp_path: Path, field: str, value: object, reason: str
) -> None:
    record = json.loads((world.shared / "base.json").read_bytes())
    record["weights"][0][field] = value
    refused_clone(world, tmp_path, record, reason)


def refused_clone(world: World, place: Path, record: dict[str, Any], reason: str) -> None:
    Forge(world.shared).write("base.json", canonical(record))
    with pytest.raises(IntegrityError, match=reason):
        clone(str(world.shared), Path("copy"), base=str(world.base), start=place)
    assert not (place / "copy").exists()


def turn(weight: dict[str, Any]) -> None:
    """The other reading of the same shape."""
    weight["d_out"], weight["d_in"] = weight["d_in"], weight["d_out"]
    weight["orientation"] = "in_out" if weight["orientation"] == "out_in" else "out_in"


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: turn(weights[3]),  # no patch touches it, so that no patch would be refused
        lambda weights: [turn(weight) for weight in weights],
        lambda weights: weights.append(weights[0]),
        lambda weights: weights.pop(),
        lambda weights: weights.reverse(),
    ],
)
def test_a_clone_has_the_weights_that_init_records(
    world: World, tmp_path: Path, change: Callable[[list[dict[str, Any]]], object]
) -> None:
    record = json.loads((world.shared / "base.json").read_bytes())
    change(record["weights"])
    refused_clone(world, tmp_path, record, "does not list the weights of the model")


@pytest.mark.parametrize(("key", "value"), [("v_loss_layer", "99"), ("ln_f_module", "nonsense")])
def test_hyperparameters_of_another_model_stop_a_clone(world: World, tmp_path: Path, key: str, value: str) -> None:
    text = re.sub(rf"^{key}:.*$", f"{key}: {value}", (world.shared / "hparams.yaml").read_text(), flags=re.MULTILINE)
    Forge(world.shared).write("hparams.yaml", text.encode())
    with pytest.raises(HparamsError, match=key):
        clone(str(world.shared), Path("copy"), base=str(world.base), start=tmp_path)
    assert not (tmp_path / "copy").exists()


def test_a_clone_computes_where_it_is_not_where_the_remote_says(world: World, tmp_path: Path) -> None:
    text = (world.shared / "hparams.yaml").read_text() + "device: mps\nstats_dir: /elsewhere\n"
    Forge(world.shared).write("hparams.yaml", text.encode())
    made = clone(str(world.shared), Path("copy"), base=str(world.base), start=tmp_path)
    with Repository.open(made.directory) as repository:
        hparams = repository.hparams()
    assert (hparams.device, hparams.stats_dir) == ("auto", "./data/stats")


def test_a_manifest_that_is_no_file(world: World) -> None:
    (world.shared / MANIFEST).unlink()
    (world.shared / MANIFEST).mkdir()
    refused(world, "is a directory, not a file")
