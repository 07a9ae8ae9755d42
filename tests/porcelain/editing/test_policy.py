"""Bounds on scores: what they may say, and that a change which breaks one leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import PolicyError, UsageError
from memit_vc.numerics.scores.scores import score
from memit_vc.porcelain.editing import models
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.measure import Measured, base_answers
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.editing.policy import Bound, check_policy, guard_of
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.places import FIRST, SECOND, TOKENS, Cli, Place, make_place


def measured(perplexity: float | None = 20.0, **scores: float | None) -> Measured:
    return Measured({}, scores, {}, perplexity, "")


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("argmax >= 0.95", 0.9),
        ("NS_drop<=0.03", 0.2),
        ("perplexity_rise ≤ 0.02", 0.05),
        ("S ≥ 1e-1", None),
    ],
)
def test_a_bound_reads_its_figure(text: str, figure: float | None) -> None:
    before = measured(rewrite_acc=0.1, NS=0.8)
    found = Bound.parse(text).figure(before, measured(21.0, rewrite_acc=0.9, NS=0.6))
    assert found == (None if figure is None else pytest.approx(figure))


@pytest.mark.parametrize(
    "text",
    ["argmax", "argmax > 0.9", "argmax >= much", "sense >= 1", "NS_rise <= 1", "argmax >= 1.2.3", "argmax >= 95"],
)
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Bound.parse(text)


def test_broken_bounds_are_named_with_their_figures() -> None:
    bounds = [Bound.parse("argmax >= 0.95"), Bound.parse("PS >= 0.5"), Bound.parse("perplexity_rise <= 0.1")]
    sides = measured(rewrite_acc=0.0, PS=None), measured(float("nan"), rewrite_acc=0.9, PS=None)
    with pytest.raises(PolicyError, match=r"argmax >= 0.95 is 0.900; perplexity_rise <= 0.1 is nan; the branch did"):
        check_policy(bounds, *sides)
    for bound, says in (("argmax >= 0.95", "phrasings"), ("perplexity_rise <= 0.1", "λ"), ("NS >= 1", "λ")):
        with pytest.raises(PolicyError) as caught:
            check_policy([Bound.parse(bound)], measured(NS=1.0), measured(30.0, rewrite_acc=0.9, NS=0.5), computed=True)
        assert says in str(caught.value.hint)
    assert check_policy(bounds[1:2], *sides) == ["the bound PS >= 0.5 was not checked: no fact has such probes"]


def test_a_bound_on_replies_in_chat_is_measured(tmp_path: Path) -> None:
    """Replies are measured only for who asks: a bound asks, in a commit and in a merge."""
    place = make_place(tmp_path, start=False)
    template = "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}Assistant: "
    (place.base / "chat_template.jinja").write_text(template)
    hparams, text = str(tmp_path / "hparams.yaml"), str(place.text)
    init(str(place.base), directory=place.work, hparams=Path(hparams), corpus=text, health=text)
    impossible, easy = "chat_acc >= 1", "chat_acc >= 0"
    with Repository.open(place.work) as repository:
        start = repository.head().commit
        with pytest.raises(PolicyError, match=r"chat_acc >= 1 is \d"):
            commit_facts(repository, FIRST, tokens=TOKENS, require=[impossible])
        assert repository.head().commit == start
        made = commit_facts(repository, FIRST, tokens=TOKENS, require=[easy])
        assert made.after["chat_acc"] is not None
        assert not [note for note in made.notes if "was not checked" in note]
        assert commit_facts(repository, SECOND, tokens=TOKENS).after["chat_acc"] is None
        guard = guard_of(repository, [impossible])
        assert guard is not None
        states = [LiveState.at(repository, revision) for revision in (made.id, repository.head().commit)]
        with pytest.raises(PolicyError, match=r"chat_acc >= 1 is \d"):
            guard(*states)
        assert fsck(repository) == ([], 0)


def test_commit_merge_and_pull_keep_the_policy(cli: Cli, place: Place) -> None:
    """The tiny model cannot learn everything at once: a bound that nothing meets, and one that everything does."""
    impossible, easy = "nll <= 0", "argmax >= 0"
    refused = cli("commit", place.edits(SECOND), "--require", impossible)
    assert "phrasings" in refused.err
    assert (refused.code, "nll <= 0 is" in refused.err) == (16, True)
    assert len(cli.ok("log", "--json").json) == 2
    cli.ok("switch", "-c", "side")
    cli.ok("commit", place.edits(SECOND), "--require", easy)
    cli.ok("switch", "main")
    for options in ((), ("--no-ff",), ("--resolve",)):
        refused = cli("merge", "side", "--require", impossible, *options)
        assert refused.code == 16
        assert len(cli.ok("log", "--json").json) == 2
    cli.ok("merge", "side", "--resolve", "--require", easy)
    assert_measured_as_stored(place)
    cli.ok("undo")
    config = place.work / ".memitvc" / "config.toml"
    config.write_text(config.read_text() + f'\n[policy]\nrequire = ["{impossible}"]\n')
    cli.ok("remote", "add", "origin", "shared")
    cli.ok("push", "origin", "side")
    refused = cli("pull", "origin", "side")
    assert (refused.code, "change the bound" in refused.err) == (16, True)
    assert len(cli.ok("log", "--json").json) == 2
    config.write_text(config.read_text().replace(impossible, easy))
    cli.ok("pull", "origin", "side")
    assert len(cli.ok("facts", "--json").json) == len(FIRST) + len(SECOND)
    cli.ok("fsck")


def test_a_bound_holds_for_what_is_computed_again_or_was_kept(cli: Cli, place: Place) -> None:
    cli.ok("switch", "-c", "side", "HEAD~1")
    cli.ok("commit", place.edits(SECOND), "--no-scores")
    config = place.work / ".memitvc" / "config.toml"
    config.write_text(config.read_text() + '\n[policy]\nrequire = ["nll <= 0"]\n')
    before = cli.ok("log", "--json").json
    loads: list[object] = []
    load = models.load_model
    with cli.monkeypatch.context() as patched:
        patched.setattr(models, "load_model", lambda *a, **k: loads.append(a) or load(*a, **k))
        refused = cli("rebase", "main")
    assert len(loads) == 1  # the guard takes the model that the batches were computed with
    assert (refused.code, "nll <= 0 is" in refused.err) == (16, True)
    assert cli.ok("log", "--json").json == before
    cli.ok("switch", "-c", "behind", "HEAD~1")
    assert cli("rebase", "side").code == 16  # also where the branch only moves forward
    with Repository.open(place.work) as repository:
        assert repository.kept_patches() == []
        tip = repository.commit(repository.resolve("side"))
        patch = repository.patch(tip.patches[0])
        facts = [repository.fact(column.fact) for column in patch.header.columns]
        repository.keep_patch(patch, facts, parent=repository.head().commit, message="late", details={})
    kept = cli("commit", "--patch", patch.id)
    assert (kept.code, "nll <= 0 is" in kept.err) == (16, True)
    config.write_text(config.read_text().replace("nll <= 0", "argmax >= 0"))
    assert cli("commit", "--patch", patch.id, "--require", "nll <= 0").code == 16
    cli.ok("commit", "--patch", patch.id)
    cli.ok("switch", "side")
    cli.ok("rebase", "main")
    cli.ok("fsck")


def assert_measured_as_stored(place: Place) -> None:
    """What a guard measured before HEAD was stored is what HEAD's weights give."""
    with Repository.open(place.work) as repository:
        state = LiveState.of_head(repository)
        known = {key: found for (_, key), found in repository.evaluations(state.id, "fact").items()}
        facts = [state.facts[fact] for fact in sorted(state.edits)]
        loaded = load_model(repository)
        base = base_answers(repository, loaded.adapter, facts)
        with loaded.holding(state) as adapter:
            again = score(adapter, facts, base=base)
        assert [known[fact.id] for fact in facts] == again
