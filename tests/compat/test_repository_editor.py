"""An editor on a repository: every edit is a commit, and the model is HEAD's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memit_vc import BaseEditor
from memit_vc.errors import BaseChangedError, ConflictError, NoRepositoryError, UsageError
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from tests.compat.conftest import Case, requests

CORPUS = "The capital of Norland is Vienna and Mira Holt plays the piano there every single day of the week."


@pytest.fixture
def place(make: Callable[..., Case], directory: Callable[[str], Path], tmp_path: Path) -> Iterator[tuple[Path, Case]]:
    case = make("linear", v_num_grad_steps=5)
    case.hparams.model_name, case.hparams.device = str(directory("linear")), "cpu"
    (tmp_path / "hparams.yaml").write_text(case.hparams.to_yaml(), encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("\n\n".join([CORPUS] * 40), encoding="utf-8")
    init(
        str(directory("linear")),
        directory=tmp_path / "work",
        hparams=tmp_path / "hparams.yaml",
        corpus=str(tmp_path / "corpus.txt"),
        health=str(tmp_path / "corpus.txt"),
    )
    yield tmp_path / "work", case
    with Repository.open(tmp_path / "work") as repository:
        assert repository.fsck() == []


def head_weights(repository: Repository) -> dict[str, torch.Tensor]:
    loaded = load_model(repository)
    state = repository.state(repository.head().commit)
    return {
        loaded.weights[layer].parameter: weight
        for layer, weight in loaded.materialised(LiveState(repository, state)).items()
    }


def shows(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    parameters = dict(model.named_parameters())
    return all(torch.equal(parameters[name], weight) for name, weight in weights.items())


def test_each_edit_is_a_commit_and_the_model_is_heads(place: tuple[Path, Case]) -> None:
    work, case = place
    made = BaseEditor.from_hparams(case.hparams, repo=work)
    assert case.unchanged({name: value.clone() for name, value in made.model.state_dict().items()})
    metrics, edited, weights = made.edit(requests=requests(2), message="two facts")
    assert edited is made.model
    assert set(metrics[0]) == {"pre", "case_id", "requested_rewrite", "post"}
    with Repository.open(work) as repository:
        log = repository.log([repository.head().commit])
        assert log[0].message == "two facts"
        assert len(log) == 2
        live = repository.live_facts(repository.head().commit)
        assert [(f.fact.subject, f.fact.target) for f in live] == [(r["subject"], r["target_new"]) for r in requests(2)]
        assert shows(edited, head_weights(repository))
    assert all(torch.equal(case.model.state_dict()[name], value) for name, value in weights.items())
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    _, second, _ = made.edit(requests=requests(3)[2:], keep_original_weight=True)
    assert second is not made.model
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    with Repository.open(work) as repository:
        assert len(repository.log([repository.head().commit])) == 3
        assert shows(second, head_weights(repository))
        assert not shows(made.model, head_weights(repository))


def test_sequential_edits_are_a_commit_each(place: tuple[Path, Case]) -> None:
    work, case = place
    made = BaseEditor.from_hparams(case.hparams, repo=work)
    metrics, edited, _ = made.edit(requests=requests(2), sequential_edit=True)
    assert all("post_immediate" in record for record in metrics)
    with Repository.open(work) as repository:
        assert len(repository.log([repository.head().commit])) == 3
        assert shows(edited, head_weights(repository))


def test_a_contradiction_stops_and_changes_nothing(place: tuple[Path, Case]) -> None:
    work, case = place
    made = BaseEditor.from_hparams(case.hparams, repo=work)
    made.edit(requests=requests(1))
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    with pytest.raises(ConflictError):
        made.edit(requests=[{**requests(1)[0], "target_new": "Tokyo"}])
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    with Repository.open(work) as repository:
        assert len(repository.log([repository.head().commit])) == 2


def test_what_a_repository_has_itself_cannot_be_given(place: tuple[Path, Case], tmp_path: Path) -> None:
    work, case = place
    with pytest.raises(UsageError, match="its own statistics"):
        BaseEditor.from_hparams(case.hparams, repo=work, statistics=case.statistics)
    with pytest.raises(NoRepositoryError):
        BaseEditor.from_hparams(case.hparams, repo=tmp_path / "elsewhere")


def test_layers_that_were_not_there_at_the_start_are_refused(place: tuple[Path, Case]) -> None:
    work, case = place
    editor = BaseEditor.from_hparams(case.hparams, repo=work)
    editor.hparams.layers = [0, 1, 2]
    with pytest.raises(UsageError, match=r"layers has \[0\], which this editor did not edit"):
        editor.edit(requests=requests(1))


def test_the_model_of_the_last_edit_may_be_kept(place: tuple[Path, Case]) -> None:
    work, case = place
    made = BaseEditor.from_hparams(case.hparams, repo=work)
    _, edited, _ = made.edit(requests=requests(1), keep_original_weight=True)
    assert edited is not made.model
    made.model = edited
    assert made.model is edited
    with Repository.open(work) as repository:
        assert shows(made.model, head_weights(repository))
    with pytest.raises(UsageError, match="that of HEAD"):
        made.model = case.model
    assert made.model is edited


def test_a_model_of_the_caller_must_be_the_repositorys(
    place: tuple[Path, Case], directory: Callable[[str], Path]
) -> None:
    work, case = place
    model = AutoModelForCausalLM.from_pretrained(directory("linear"))
    case.hparams.model_name = (model, AutoTokenizer.from_pretrained(directory("linear")))
    assert shows(BaseEditor.from_hparams(case.hparams, repo=work).model, dict(model.named_parameters()))
    with Repository.open(work) as repository:
        edited = dict(model.named_parameters())[repository.weights()[0].parameter]
    with torch.no_grad():
        edited.mul_(1.001)
    with pytest.raises(BaseChangedError, match="neither the repository's base nor one of its states"):
        BaseEditor.from_hparams(case.hparams, repo=work)
