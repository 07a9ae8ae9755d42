"""Patch files: what one repository writes another takes in, and a hostile file leaves no trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli import main
from memit_vc.errors import ConflictError, IntegrityError, MemitVCError, UsageError
from memit_vc.objects import Fact, RefUpdate, canonical_json
from memit_vc.objects import digest as digest_of
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.recomputing.resolve import resolve_revert
from memit_vc.porcelain.sets.branch import create_branch
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sets.switch import switch
from memit_vc.porcelain.sharing.export_patch import export_patch
from memit_vc.porcelain.sharing.import_patch import import_patch
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.remote.container import ContainerTree, write_container
from memit_vc.repository import Repository
from tests.support.histories import record
from tests.support.models import FACTS, tiny
from tests.support.opened import Opened
from tests.support.synthetic import travelling


def to_root(repository: Repository) -> None:
    head = repository.head()
    repository.publish(
        verb="reset",
        description="to the base",
        refs=[RefUpdate("heads/main", head.commit, repository.resolve("HEAD~3"))],
    )


@pytest.fixture
def empty(opened: Opened) -> Repository:
    """A repository on the same base whose history holds nothing, nor do its objects."""
    repository = opened("llama")
    to_root(repository)
    collect_garbage(repository, keep_operations=0, grace=0)
    assert travelling(repository) == []
    return repository


def digest(repository: Repository) -> tuple[object, ...]:
    return repository.refs(), len(repository.operations()), list(repository.blobs.iterate()), repository.orphans()


def test_a_history_goes_from_one_repository_to_another(opened: Opened, empty: Repository, tmp_path: Path) -> None:
    source = opened("llama")
    root, tip = source.resolve("HEAD~3"), source.head().commit
    revert(source, ["HEAD~1"])
    made = export_patch(source, f"{root}..HEAD", tmp_path / "four.memitvc")
    assert (len(made.commits), made.patches, made.facts) == (4, 3, 7)
    assert made.bytes == made.file.stat().st_size

    taken = import_patch(empty, made.file)
    assert (taken.added, taken.removed, taken.skipped) == (5, 0, ())
    assert taken.imported == made.commits
    assert taken.state == source.state_id(source.state(source.head().commit))
    ids = [entry.id for entry in empty.log([empty.head().commit])][:4][::-1]
    assert ids == list(taken.ids)
    assert empty.state_id(empty.state(ids[2])) == source.state_id(source.state(tip))
    assert [f.fact for f in empty.live_facts(ids[-1])] == [f.fact for f in source.live_facts(source.head().commit)]
    assert fsck(empty)[0] == []
    for patch in source.selection(source.state(tip)):
        assert empty.patch(patch) == source.patch(patch)

    one = export_patch(source, "HEAD~3", tmp_path / "one")
    before = source.head()
    again = import_patch(source, one.file)
    assert (again.ids, again.skipped, source.head()) == ((), one.commits, before)
    assert empty.undo().verb == "undo"


def test_the_file_is_the_same_each_time_and_smaller_without_constraints(opened: Opened, tmp_path: Path) -> None:
    source = opened("llama")
    first, again = (export_patch(source, "HEAD", tmp_path / name).file for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()
    small = export_patch(source, "HEAD", tmp_path / "c", constraints=False)
    assert small.bytes < first.stat().st_size
    (tmp_path / "link").symlink_to("missing")
    for there in (first, tmp_path / "link"):
        with pytest.raises(UsageError, match="exists already"):
            export_patch(source, "HEAD", there)
    with pytest.raises(UsageError, match="exists already"):
        export_patch(source, "HEAD", tmp_path / "new", progress=lambda *_: (tmp_path / "new").touch())
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "new").read_bytes()) == (True, b"")
    with pytest.raises(UsageError, match="base itself"):
        export_patch(source, "HEAD~3", tmp_path / "d")
    with pytest.raises(UsageError, match="no commit"):
        export_patch(source, "HEAD..HEAD", tmp_path / "d")


def test_without_constraints_it_still_goes_in(opened: Opened, empty: Repository, tmp_path: Path) -> None:
    file = export_patch(opened("llama"), "HEAD~2", tmp_path / "x", constraints=False).file
    made = import_patch(empty, file)
    assert made.added == 3
    (patch,) = empty.commit(made.ids[0]).patches
    assert empty.patch(patch).constraints is None


def test_a_contradiction_stops_unless_told(opened: Opened, empty: Repository, tmp_path: Path) -> None:
    file = export_patch(opened("llama"), "HEAD~2", tmp_path / "x").file
    other = replace(FACTS[0], target="Madrid")
    record(empty, [other], (1, 2), message="another answer", seed=9)
    before = digest(empty)
    with pytest.raises(ConflictError, match="Madrid"):
        import_patch(empty, file)
    assert digest(empty) == before
    for side, live in (("ours", {other}), ("theirs", {FACTS[0]}), ("keep-both", {other, FACTS[0]})):
        import_patch(empty, file, on_conflict=side)  # type: ignore[arg-type]
        found = {entry.fact for entry in empty.live_facts(empty.head().commit)}
        assert found & {other, FACTS[0]} == live
        assert {FACTS[1], FACTS[2]} <= found
        empty.undo()


def test_another_base_is_refused(opened: Opened, tmp_path: Path) -> None:
    from memit_vc.porcelain.setup import init
    from tests.support.models import hparams_for, load

    file = export_patch(opened("llama"), "HEAD", tmp_path / "x").file
    base = tiny("llama", tmp_path / "other" / "base", seed=5)
    hparams = tmp_path / "hparams.yaml"
    hparams.write_text(hparams_for(load(base)).to_yaml())
    init(str(base), directory=tmp_path / "other" / "work", hparams=hparams)
    with Repository.open(tmp_path / "other" / "work") as other:
        with pytest.raises(IntegrityError, match="belongs to base"):
            import_patch(other, file)
        assert other.fsck() == []


# A hostile file: the tree of a good one, changed and packed again with everything else made to fit.


@dataclass
class Tree:
    """One commit's record, the objects by name, and the manifest; `more` are files as they are."""

    record: dict[str, Any]
    objects: dict[str, bytes]
    manifest: dict[str, Any]
    more: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path) -> Tree:
        tree = ContainerTree(file)
        files = {path: tree.read(path, None, limit=1 << 30) for path in tree.listing(None)}
        manifest = json.loads(files.pop("memitvc.json"))
        (record,) = (json.loads(data) for path, data in files.items() if path.startswith("commits/"))
        objects = {p[8:].replace("/", ""): data for p, data in files.items() if p.startswith("objects/")}
        return cls(record, objects, manifest)

    @property
    def commit(self) -> dict[str, Any]:
        found: dict[str, Any] = self.record["commit"]
        return found

    @property
    def patch(self) -> str:
        (name,) = self.record["patches"]
        return str(name)

    def pack(self, file: Path) -> Path:
        """The record under the id that it has now, and published."""
        name = digest_of("commit", canonical_json(self.commit))
        manifest = {**self.manifest, "refs": {"heads/patch": name, **self.manifest["refs"].get("more", {})}}
        files: dict[str, bytes | Path] = {f"objects/{n[:2]}/{n[2:]}": data for n, data in self.objects.items()}
        files |= {f"commits/{name}.json": canonical_json(self.record), "memitvc.json": canonical_json(manifest)}
        write_container(file, {**files, **self.more})
        return file


Change = Callable[[Tree], None]


def swap_patch(change: Callable[[bytes], bytes]) -> Change:
    """The patch with other bytes under its right new name."""

    def apply(tree: Tree) -> None:
        old = tree.patch
        data = change(tree.objects.pop(old))
        new = hashlib.sha256(data).hexdigest()
        tree.objects[new] = data
        tree.record["patches"] = {new: tree.record["patches"][old]}
        tree.commit["patches"] = [new]

    return apply


def numbers(value: bytes) -> Change:
    """One factor entry replaced."""
    return swap_patch(lambda data: data[:-4] + value)


def header(old: str, new: str) -> Change:
    def change(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        text = data[8 : 8 + length].decode().rstrip().replace(old, new).encode()
        assert old.encode() in data[: 8 + length]
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return swap_patch(change)


def edit(work: Callable[[Tree], Any]) -> Change:
    return lambda tree: work(tree) and None


def rename(name: str) -> Change:
    def apply(tree: Tree) -> None:
        tree.more[name] = tree.objects.pop(tree.patch)

    return apply


def flip(tree: Tree) -> None:
    data = bytearray(tree.objects[tree.patch])
    data[-1] ^= 1
    tree.objects[tree.patch] = bytes(data)


def twice(tree: Tree) -> None:
    """The same commit under two names."""
    tree.more[f"commits/{'0' * 64}.json"] = canonical_json(tree.record)
    tree.manifest["refs"]["more"] = {"heads/other": "0" * 64}


def circle(tree: Tree) -> None:
    """A commit that is its own parent can only be written down under a name that is not its own."""
    name = "1" * 64
    child = {**tree.record, "commit": {**tree.commit, "parents": [name]}}
    tree.more[f"commits/{name}.json"] = canonical_json(child)
    tree.manifest["refs"]["more"] = {"heads/other": name}


def foreign_constraints(tree: Tree) -> None:
    import numpy as np

    from memit_vc.numerics.exact.constraints import encode_constraints

    data = encode_constraints({"w": np.zeros((3, 3))}, {"w": np.zeros((2, 3))}, np.zeros((3, 2)))
    del tree.objects[tree.record["patches"][tree.patch]]
    name = hashlib.sha256(data).hexdigest()
    tree.objects[name] = data
    tree.record["patches"][tree.patch] = name


FORGED = {
    "a flipped byte": (flip, "not what its name says"),
    "a path for a name": (rename("../../../etc/passwd"), "not a file of a remote"),
    "another name": (rename(f"objects/00/{'0' * 62}"), "lacks object"),
    "NaN": (numbers(b"\x00\x00\xc0\x7f"), "NaN or infinity"),
    "infinity": (numbers(b"\x00\x00\x80\x7f"), "NaN or infinity"),
    "off the grid": (numbers(b"\x01\x00\x80\x3e"), "off the grid"),
    "a tensor of 2^60 bytes": (header('"shape":[32,3]', '"shape":[1152921504606846976,3]'), "does not fill"),
    "a shape that does not fit": (header('"shape":[32,3]', '"shape":[3,32]'), "its header says"),
    "another weight": (header("layers.2.", "layers.9."), "is not an editable weight of this base"),
    "another grid": (header('\\"quantum\\":-4', '\\"quantum\\":-5'), "off the grid|on the grid|gives weight"),
    "an unknown patch format": (header('\\"format\\":1', '\\"format\\":7'), "patch format 7"),
    "an unknown commit format": (edit(lambda t: t.commit.update(format=2)), "commit format 2"),
    "a commit twice": (twice, "another commit"),
    "a cycle": (circle, "another commit"),
    "no commits": (edit(lambda t: t.manifest["refs"].update(more={"heads/patch": "0" * 64})), "belongs to nothing"),
    "no facts": (edit(lambda t: t.record.update(facts=[])), "lacks fact"),
    "a fact without its subject": (edit(lambda t: t.record["facts"][0].update(subject="Nobody")), "does not occur"),
    "a fact of another type": (edit(lambda t: t.record["facts"][0].update(prompt=["x"])), "holds what is not text"),
    "a NUL in a message": (edit(lambda t: t.commit.update(message="a\0b")), "another type"),
    "columns of nobody": (edit(lambda t: t.commit.update(adds=["0" * 64])), "no patch in the file"),
    "another base": (edit(lambda t: t.manifest["base"].update(id="0" * 64)), "belongs to base"),
    "another base in the commit": (edit(lambda t: t.commit.update(base="0" * 64)), "belongs to base"),
    "a stray field": (edit(lambda t: t.commit.update(extra=1)), "does not have"),
    "constraints of other weights": (foreign_constraints, "its constraints"),
    "a stray object": (edit(lambda t: t.objects.update({hashlib.sha256(b"x").hexdigest(): b"x"})), "to nothing"),
}


def test_a_file_of_another_ref_or_without_its_commit_is_refused(empty: Repository, good: Path, tmp_path: Path) -> None:
    tree = Tree.of(good)
    files: dict[str, bytes | Path] = {}
    for number, refs in enumerate(({"heads/patch": "a" * 64}, {"heads/other": "a" * 64})):
        default = next(iter(refs)).removeprefix("heads/")
        files["memitvc.json"] = canonical_json({**tree.manifest, "refs": refs, "default": default})  # type: ignore[dict-item]
        write_container(tmp_path / str(number), files)
        with pytest.raises(IntegrityError, match="must be its only ref"):
            import_patch(empty, tmp_path / str(number))


def test_commits_come_in_by_age(opened: Opened, empty: Repository, tmp_path: Path) -> None:
    """Parents first, then by time, then by id: whatever the order in which sets are iterated."""
    source = opened("llama")
    root = source.resolve("HEAD~3")
    tips = []
    for branch in range(3):
        name = f"side{branch}"
        create_branch(source, name, "HEAD~1")
        switch(source, name)
        for number in range(2):
            fact = Fact(prompt=f"{branch}.{number} is", subject=f"{branch}.{number}", target="there")
            record(source, [fact], (1, 2), message=name, seed=10 * branch + number)
        tips.append(source.head().commit)
        switch(source, "main")
    for tip in tips:
        merge(source, tip)
    file = export_patch(source, f"{root}..HEAD", tmp_path / "many").file

    left = source.commits(source.resolve_range(f"{root}..HEAD"))
    expected = []
    while left:
        ready = [(c.time, i) for i, c in left.items() if not left.keys() & set(c.parents)]
        expected.append(min(ready)[1])
        del left[expected[-1]]
    made = import_patch(empty, file)
    assert [commit for commit in expected if commit not in made.skipped] == list(made.imported)


def test_a_state_that_is_empty_on_the_way(opened: Opened, empty: Repository, tmp_path: Path) -> None:
    """A commit, its revert, and the revert of that: several commits in one operation, one of them back on the base."""
    source = opened("llama")
    to_root(source)
    record(source, [FACTS[0]], (1, 2), message="one", seed=7)
    for _ in range(2):
        revert(source, ["HEAD"])
    file = export_patch(source, "HEAD~3..HEAD", tmp_path / "three").file
    made = import_patch(empty, file)
    assert len(made.ids) == 3
    assert (made.added, made.removed) == (1, 0)
    assert [len(empty.state(commit)) for commit in made.ids] == [1, 0, 1]


def test_an_import_leaves_what_an_interrupted_fetch_brought(empty: Repository, good: Path) -> None:
    kept = empty.root / "cache" / "incoming" / "whole"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"an object")
    import_patch(empty, good)
    assert kept.read_bytes() == b"an object"
    assert not (empty.root / "cache" / "import").exists()


@pytest.fixture(scope="module")
def good(histories: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch file of one commit on layers 1 and 2."""
    with Repository.open(histories("llama")) as repository:
        return export_patch(repository, "HEAD~2", tmp_path_factory.mktemp("good") / "x.memitvc").file


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused_before_anything_is_stored(
    empty: Repository, good: Path, tmp_path: Path, name: str
) -> None:
    change, message = FORGED[name]
    tree = Tree.of(good)
    change(tree)
    file = tree.pack(tmp_path / "forged")
    before = digest(empty)
    with pytest.raises(MemitVCError, match=message) as raised:
        import_patch(empty, file)
    assert raised.value.hint
    assert digest(empty) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: (2**60).to_bytes(8, "little") + data[8:], "cut short"),
        (lambda data: data[:-10], "describes"),
        (lambda data: data[:5], "cut short"),
        (lambda data: b"", "cut short"),
        (lambda data: b"{}" * 50, "is JSON"),
        (lambda data: data.replace(b'\\"format\\":2,\\"kind', b'\\"format\\":9,\\"kind', 1), "format 9"),
        (lambda data: data.replace(b'\\"format\\":2,\\"kind', b'\\"format\\":1,\\"kind', 1), "format 1, .*reads 2"),
        (lambda data: data.replace(b'\\"kind\\":\\"patch file', b'\\"kind\\":\\"match file', 1), "not a patch file"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "not those that were written"),
    ],
)
def test_a_damaged_container_is_refused(
    empty: Repository, good: Path, tmp_path: Path, make: Callable[[bytes], bytes], message: str
) -> None:
    (tmp_path / "bad").write_bytes(make(good.read_bytes()))
    with pytest.raises(MemitVCError, match=message):
        import_patch(empty, tmp_path / "bad")
    assert travelling(empty) == []


def test_random_damage_is_refused_or_harmless(empty: Repository, good: Path, tmp_path: Path) -> None:
    import random

    generator, data = random.Random(7), good.read_bytes()
    file = tmp_path / "mutated"
    before = digest(empty)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 8))):
            changed[generator.randrange(len(changed)) if generator.random() < 0.5 else generator.randrange(4000)] = (
                generator.randrange(256)
            )
        if generator.random() < 0.1:
            changed = changed[: generator.randrange(len(changed))]
        file.write_bytes(changed)
        if bytes(changed) == data:
            continue
        with pytest.raises(MemitVCError):
            import_patch(empty, file)
    assert digest(empty) == before


def test_manifests_that_are_not_canonical(empty: Repository, good: Path, tmp_path: Path) -> None:
    tree = ContainerTree(good)
    files = {path: tree.read(path, None, limit=1 << 30) for path in tree.listing(None)}
    raw = files["memitvc.json"]
    for bad in (
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        raw + b" ",
        raw.replace(b'"default"', b'"default":"x","default"', 1),
        b"\xff",
    ):
        write_container(tmp_path / "bad", {**files, "memitvc.json": bad})
        with pytest.raises(IntegrityError):
            import_patch(empty, tmp_path / "bad")


def test_the_command_line(
    opened: Opened,
    empty: Repository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = opened("llama")
    file = tmp_path / "x.memitvc"
    assert main(["-C", str(source.directory), "export", "--patch", str(file), "HEAD~2"]) == 0
    assert "1 commit, 1 patch, 3 facts" in capsys.readouterr().out
    assert main(["-C", str(empty.directory), "import", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 3
    assert main(["-C", str(empty.directory), "import", str(file)]) == 0
    assert capsys.readouterr().out == f"everything in {file} is here already\n"
    assert main(["-C", str(empty.directory), "import", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
    for wrong in ([], ["--patch", "a", "--merged", "b"], ["--patch", "a", "--dtype", "float32"]):
        assert main(["-C", str(source.directory), "export", *wrong]) == 2


def test_a_fact_is_taken_out_of_the_edits_that_it_was_solved_against(
    opened: Opened, with_history: Path, tmp_path: Path
) -> None:
    """Two people edit the same fact; the first one's `revert --resolve` does not fit the second one's edit."""
    first, same, other = opened(with_history), opened(with_history), opened(with_history)
    for repository, settings in ((first, {}), (same, {}), (other, {"v_lr": 0.3})):
        loaded = load_model(repository)
        hparams = repository.hparams().replace(**settings)
        commit_facts(repository, [FACTS[6]], hparams=hparams, scores=False, loaded=loaded)
        if repository is first:
            resolve_revert(repository, ["HEAD"], loaded=loaded)
    made = export_patch(first, "HEAD", tmp_path / "out")
    with pytest.raises(ConflictError, match="do not fit the edits here"):
        import_patch(other, made.file)
    assert FACTS[6].id in LiveState.of_head(other).edits
    import_patch(same, made.file)
    assert LiveState.of_head(same).columns == LiveState.of_head(first).columns


def test_the_same_columns_in_another_patch_are_what_was_taken_out(
    opened: Opened, with_history: Path, tmp_path: Path
) -> None:
    """A squash moves columns into another patch; provenance names the columns."""
    first, same = opened(with_history), opened(with_history)
    for repository in (first, same):
        loaded = load_model(repository)
        for fact in FACTS[6:8]:
            commit_facts(repository, [fact], scores=False, loaded=loaded)
        if repository is first:
            squash(repository, "HEAD~2..HEAD")
            resolve_revert(repository, ["HEAD"], fact=FACTS[7].subject, loaded=loaded)
    made = export_patch(first, "HEAD", tmp_path / "out")
    import_patch(same, made.file)
    assert LiveState.of_head(same).columns == LiveState.of_head(first).columns


def test_a_fact_that_is_out_here_already_stops_nothing(opened: Opened, with_history: Path, tmp_path: Path) -> None:
    first, other = opened(with_history), opened(with_history)
    for repository, rate in ((first, 0.5), (other, 0.3)):
        loaded = load_model(repository)
        hparams = repository.hparams().replace(v_lr=rate)
        commit_facts(repository, [FACTS[6]], hparams=hparams, scores=False, loaded=loaded)
        resolve_revert(repository, ["HEAD"], loaded=loaded)
    made = export_patch(first, "HEAD", tmp_path / "out")
    import_patch(other, made.file)
    assert FACTS[6].id not in LiveState.of_head(other).edits


def test_a_squash_that_holds_an_edit_and_what_takes_it_out(opened: Opened, with_history: Path, tmp_path: Path) -> None:
    """The record of the solve does not travel with it. Another edit of the same fact stays what it is."""
    first, bare, other = opened(with_history), opened(with_history), opened(with_history)
    loaded, start = load_model(first), first.head().commit
    commit_facts(first, [FACTS[6]], scores=False, loaded=loaded)
    resolve_revert(first, ["HEAD"], loaded=loaded)
    commit_facts(first, [FACTS[7]], scores=False, loaded=loaded)
    squash(first, f"{start}..HEAD")
    made = export_patch(first, "HEAD", tmp_path / "out")
    import_patch(bare, made.file)
    assert LiveState.of_head(bare).columns == LiveState.of_head(first).columns
    hparams = other.hparams().replace(v_lr=0.3)
    own = commit_facts(other, [FACTS[6]], hparams=hparams, scores=False, loaded=load_model(other))
    taken = import_patch(other, made.file)
    state = LiveState.of_head(other)
    assert state.edits[FACTS[6].id] == frozenset(other.commit(own.id).adds)
    assert not state.cancelled
    assert FACTS[7].id in state.edits
    assert any(FACTS[6].subject in warning for warning in taken.warnings)
