"""Module names of a hyperparameter file are the ones in use; slips in the arguments of `init` are heard of at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import HparamsError, UnsupportedModelError
from memit_vc.hparams import MEMITHyperParams, for_model
from memit_vc.objects import ColumnId
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.recomputing.reproduce import reproduce
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository
from tests.support.places import FIRST, SECOND, TOKENS, Cli, Place, contents, make_place


def test_another_projection_is_edited_where_the_file_names_it(tmp_path: Path) -> None:
    made = make_place(tmp_path, start=False)
    file = tmp_path / "hparams.yaml"
    file.write_text(file.read_text().replace("model.layers.{}.mlp.down_proj", "model.layers.{}.self_attn.o_proj"))
    init(str(made.base), directory=made.work, hparams=file, corpus=str(made.text), health=str(made.text))
    with Repository.open(made.work) as repository:
        result = commit_facts(repository, FIRST[:1], tokens=TOKENS, scores=False)
        touched = repository.bounds(repository.state(result.id))
        assert touched
        assert all(name.endswith("self_attn.o_proj.weight") for name in touched)
        assert repository.fsck() == []


def test_a_projection_named_after_init_is_refused(place: Place) -> None:
    file = place.work / ".memitvc" / "hparams.yaml"
    original = file.read_text()
    file.write_text(original.replace("mlp.down_proj", "self_attn.o_proj"))
    with Repository.open(place.work) as repository, pytest.raises(HparamsError, match="rewrite_module_tmp names"):
        commit_facts(repository, SECOND[:1], scores=False)
    file.write_text(original)


def test_a_commit_with_a_file_of_its_own_is_held_to_the_recorded_projection(cli: Cli, place: Place) -> None:
    before = contents(place.work)
    original = (place.work / ".memitvc" / "hparams.yaml").read_text()
    other = place.work / "other.yaml"
    other.write_text(original.replace("mlp.down_proj", "mlp.up_proj"))
    for command in (["commit", place.edits(SECOND)], ["stats"]):
        failed = cli(*command, "--hparams", other)
        assert failed.code == 1
        assert "other.yaml: rewrite_module_tmp names model.layers.1.mlp.up_proj" in failed.err
    assert contents(place.work) == before


def test_norm_and_head_must_be_the_models(place: Place) -> None:
    """A norm that a file leaves out is missed. A head named by its embedding, as files for tied models do, is found."""
    with Repository.open(place.work) as repository:
        loaded, usual = load_model(repository), repository.hparams()

        def columns(hparams: MEMITHyperParams) -> tuple[ColumnId, ...]:
            made = commit_facts(repository, SECOND, hparams=hparams, scores=False, loaded=loaded)
            assert reproduce(repository, loaded=loaded).equal
            repository.undo()
            return repository.commit(made.id).adds

        before = columns(usual)
        assert columns(usual.replace(lm_head_module="model.embed_tokens")) == before
        with pytest.raises(UnsupportedModelError, match="does not give the model's own answers"):
            columns(usual.replace(ln_f_module=""))


@pytest.mark.parametrize("option", ["--health", "--corpus"])
def test_a_text_that_is_not_there_is_refused_by_init(cli: Cli, place: Place, tmp_path: Path, option: str) -> None:
    failed = cli("init", place.base, tmp_path / "new", option, tmp_path / "nosuch.txt")
    assert failed.code == 1
    assert "nosuch.txt" in failed.err
    assert not (tmp_path / "new" / ".memitvc").exists()


def test_a_shipped_file_is_found_by_size_where_the_name_says_nothing() -> None:
    assert for_model("/models/mine", "llama", 30, 576) == for_model("SmolLM2-135M", "llama", 30, 576)
    assert for_model("/models/mine", "llama", 32, 4096) is None  # several are of this size
    found = for_model("/models/mine", "gptj", 28, 4096)
    assert found is not None
    assert MEMITHyperParams.from_hparams(found).layers == [3, 4, 5, 6, 7, 8]
