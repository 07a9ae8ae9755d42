"""One bit flipped in each file of `.memitvc`, size and date kept: no verb ends with 0 and other output or weights.

Left out are what its owner writes by hand (`config.toml`, `hparams.yaml`) and `meta.db`, whose rows have tests of their
own in `tests/store`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memit_vc.repository import Repository
from memit_vc.store.shards import ShardedBase
from tests.support.flips import flip
from tests.support.places import FIRST, SECOND, Cli, Place, copy_of

_HANDWRITTEN = ("config.toml", "hparams.yaml", "meta.db", "meta.db-wal", "meta.db-shm")


class Trial:
    """A copy of a repository with all kinds of files, whose stamps are as if it had never been copied."""

    def __init__(self, whole: Whole, root: Path) -> None:
        self.place, self.root, self.whole = copy_of(whole.place, root), root, whole
        for record in (self.store / "base").glob("*/base.json"):
            ShardedBase.open(record.parent).stamp()
        self.cli = Cli(self.place.work, whole.capsys, whole.monkeypatch)

    @property
    def store(self) -> Path:
        return self.place.work / ".memitvc"

    def run(self, *arguments: str | Path) -> int:
        self.said = self.cli(str(arguments[0]), *arguments[1:])
        return self.said.code

    def json(self) -> Any:
        return self.said.json

    def head(self) -> Any:
        """What the newest commit is, without its time."""
        with Repository.open(self.place.work) as repository:
            commit = repository.commit(repository.head().commit)
            return [repository.state_id(repository.state(commit.id)), commit.patches, commit.adds, commit.removes]


def _files(directory: Path) -> dict[str, str]:
    """SHA-256 of everything that a loader may read."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "memitvc.json"
    }


def _read(*arguments: str) -> Callable[[Trial], tuple[int, Any]]:
    return lambda trial: (trial.run(*arguments, "--json"), trial.said.out)


def _checkout(revision: str) -> Callable[[Trial], tuple[int, Any]]:
    def verb(trial: Trial) -> tuple[int, Any]:
        out = trial.root / "out"
        code = trial.run("checkout", revision, "-o", out)
        return code, _files(out) if code == 0 else None

    return verb


def _in_place(trial: Trial) -> tuple[int, Any]:
    out = trial.root / "switched"
    shutil.copytree(trial.whole.model, out)
    code = trial.run("checkout", "main~1", "--in-place", out)
    return code, _files(out)


def _merged(trial: Trial) -> tuple[int, Any]:
    code = trial.run("export", "main", "--merged", trial.root / "merged")
    return code, _files(trial.root / "merged") if code == 0 else None


def _adapter(trial: Trial) -> tuple[int, Any]:
    code = trial.run("export", "main", "--adapter", trial.root / "adapter")
    return code, _files(trial.root / "adapter") if code == 0 else None


def _verify(trial: Trial) -> tuple[int, Any]:
    code = trial.run("verify", trial.whole.model, "--json")
    return code, trial.said.out


def _again(trial: Trial) -> tuple[int, Any]:
    """The first commit once more: z, templates, statistics and factors are remembered."""
    code = trial.run("switch", "again") or trial.run("commit", trial.place.edits(FIRST), "--no-scores")
    return code, trial.head() if code == 0 else None


def _more(trial: Trial) -> tuple[int, Any]:
    """A commit that takes the live facts' constraints into account."""
    code = trial.run("commit", trial.place.edits(SECOND[1:]), "--no-scores")
    return code, trial.head() if code == 0 else None


def _changing(*arguments: str) -> Callable[[Trial], tuple[int, Any]]:
    def verb(trial: Trial) -> tuple[int, Any]:
        code = trial.run(*arguments)
        return code, trial.head() if code == 0 else None

    return verb


VERBS: dict[str, Callable[[Trial], tuple[int, Any]]] = {
    "log": _read("log"),
    "show": _read("show", "main"),
    "facts": _read("facts"),
    "diff": _read("diff", "main~2", "main", "--weights"),
    "eval": _read("eval", "main"),
    "verify": _verify,
    "checkout": _checkout("main~1"),
    "checkout, cached": _checkout("main"),
    "checkout --in-place": _in_place,
    "export --merged": _merged,
    "export --adapter": _adapter,
    "revert": _changing("revert", "main~1"),
    "squash": _changing("squash", "--all"),
    "commit, again": _again,
    "commit, more": _more,
}


class Whole:
    """The undamaged repository, a checkout of main, and what each verb does there."""

    def __init__(
        self, place: Place, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.place, self.model, self.capsys, self.monkeypatch = place, model, capsys, monkeypatch

    def expected(self, verb: str, root: Path) -> Any:
        remembered = self.place.work / f"expected-{verb}.json"
        if not remembered.exists():
            code, value = VERBS[verb](Trial(self, root / "expected"))
            assert code == 0, verb
            remembered.write_text(json.dumps(value))
        return json.loads(remembered.read_text())


@pytest.fixture(scope="module")
def built(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Path]:
    """Two commits, the shards, cached states, statistics that were chosen, norms."""
    from memit_vc.cli import main

    root = tmp_path_factory.mktemp("flips")
    place = copy_of(finished, root)

    def run(*arguments: str | Path) -> None:
        assert main([str(arguments[0]), "-C", str(place.work), *map(str, arguments[1:])]) == 0

    run("stats")
    run("commit", place.edits(SECOND[:1]), "--no-scores")
    run("branch", "again", "main~2")
    run("checkout", "main", "-o", root / "model")
    run("diff", "main~2", "main", "--weights")
    return place, root / "model"


@pytest.fixture
def whole(built: tuple[Place, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Whole:
    return Whole(*built, capsys, monkeypatch)


def _tell(whole: Whole, root: Path, file: str, verb: str, *, share: float = 0.75, bit: int = 1) -> None:
    expected = whole.expected(verb, root)
    trial = Trial(whole, root)
    flip(trial.store / file, share=share, bit=bit)
    code, value = VERBS[verb](trial)
    assert code != 0 or json.loads(json.dumps(value)) == expected, f"{verb} after a flip in {file}"
    assert code in (0, 1, 12, 15), trial.said
    assert "Traceback" not in trial.said.err


def _only(whole: Whole, pattern: str) -> str:
    root = whole.place.work / ".memitvc"
    return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))[0]


@pytest.mark.parametrize(
    ("pattern", "verb"),
    [
        ("base/*/model-hot.safetensors", "checkout"),
        ("base/*/model-cold-*.safetensors", "checkout"),
        ("base/*/model-cold-*.safetensors", "checkout --in-place"),
        ("base/*/files/config.json", "checkout"),
        ("base/*/base.json", "checkout"),
        ("cache/hot/*.safetensors", "checkout, cached"),
        ("cache/base-norms.json", "diff"),
        ("cache/templates-*.json", "commit, again"),
        ("cache/z/*/*.safetensors", "commit, again"),
        ("statistics/*/factor-1-*.safetensors", "commit, again"),
        ("statistics/chosen.json", "commit, again"),
    ],
)
def test_no_verb_believes_a_flipped_bit(whole: Whole, tmp_path: Path, pattern: str, verb: str) -> None:
    _tell(whole, tmp_path, _only(whole, pattern), verb)


def test_no_verb_believes_damaged_objects(whole: Whole, tmp_path: Path) -> None:
    with Repository.open(whole.place.work) as repository:
        (patch,) = repository.commit(repository.resolve("main~1")).patches
        constraints = repository.patch(patch).constraints
    assert constraints is not None
    for number, (blob, verb) in enumerate([(patch, "checkout"), (constraints, "commit, more")]):
        _tell(whole, tmp_path / str(number), f"objects/{blob[:2]}/{blob[2:]}", verb)


def test_fsck_finds_each_flipped_bit_and_takes_back_what_it_can(whole: Whole, tmp_path: Path) -> None:
    """And what it says comes true: the second run finds only what no command can make again."""
    trial = Trial(whole, tmp_path)
    flipped = [
        path
        for path in sorted(trial.store.rglob("*"))
        if path.is_file() and path.name not in (*_HANDWRITTEN, "format", "base.json", "stamps.json")
    ]
    for path in flipped:
        flip(path)
    assert trial.run("fsck") == 12
    for path in flipped:
        name = path.parent.name + path.name if path.parent.parent.name == "objects" else path.name
        name = name.replace(".json", "") if path.parent.name == "hot" else name
        assert name in trial.said.out, path
    assert trial.run("fsck") == 12
    again = {line.split(" ")[0] for line in trial.said.out.splitlines()}
    assert again == {"base", "blob", "journal", "patch", "statistics"}, trial.said.out
    assert "chosen.json" in trial.said.out


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_every_file(whole: Whole, tmp_path: Path, verb: str) -> None:
    root = whole.place.work / ".memitvc"
    files = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
    chance = random.Random(verb)
    for number, file in enumerate(file for file in files if Path(file).name not in _HANDWRITTEN):
        place = tmp_path / str(number)
        _tell(whole, place, file, verb, share=chance.random(), bit=chance.randrange(8))
        shutil.rmtree(place)
