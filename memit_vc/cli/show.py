from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, verb
from memit_vc.cli.render import fact_line, score_rows
from memit_vc.foreign.text import one_line
from memit_vc.objects.measures import number

if TYPE_CHECKING:
    from memit_vc.porcelain.history.show import ShownCommit


@verb(name="show", example="memitvc show HEAD~1 --provenance")
@click.argument("revision", default="HEAD")
@click.option(
    "--why", is_flag=True, help="Also show, for each fact, how well the edit worked and what could improve it."
)
@click.option("--provenance", is_flag=True, help="Also show everything that the patch was computed from.")
def command(io: IO, revision: str, why: bool, provenance: bool) -> None:
    """Show the commit REVISION (default HEAD), with its facts and scores."""
    from memit_vc.porcelain.history.show import show

    with io.repository() as repository:
        shown = show(repository, revision)
    io.emit(shown, lambda: _render(io, shown, why, provenance))


def _render(io: IO, shown: ShownCommit, why: bool, provenance: bool) -> None:
    entry = shown.entry
    refs = f" ({', '.join(entry.refs)})" if entry.refs else ""
    click.echo(f"commit {click.style(entry.id, fg='yellow')}{refs}")
    for parent in entry.parents:
        click.echo(f"Parent: {parent[:10]}")
    if entry.commit.author:
        click.echo(f"Author: {one_line(entry.commit.author)}\nDate:   {one_line(entry.commit.time)}")
    click.echo(f"State:  {shown.state[:10]}")
    click.echo("\n" + "\n".join(f"    {line}" for line in entry.commit.message.splitlines()) + "\n")
    if shown.added:
        measures = ["ES", "PS", "NS"] if any(item.after for item in shown.added) else []
        rows = []
        for item in shown.added:
            before, after = item.before or {}, item.after or {}
            sign = "+" if item.role == "edit" else "−"
            scores = [f"{number(before.get(m), 1)} → {number(after.get(m), 1)}" if after else "" for m in measures]
            rows.append([f"{sign} {fact_line(item.fact)}", *scores])
        io.table(["fact", *measures], rows)
        if shown.scores is None and measures:
            click.echo("scores are those of the commits that this one replaced")
    for adapter in shown.adapters:
        told = [f"licence {adapter.licence or 'unknown'}", *([f"from {adapter.source}"] if adapter.source else [])]
        click.echo(f"+ adapter {adapter.name} ({', '.join(told)})")
    for fact in shown.removed:
        click.echo(f"− {fact_line(fact)}")
    if shown.scores is not None:
        sides = [shown.scores["before"], shown.scores["after"]]
        rows = score_rows([side.get("total", {}) for side in sides])
        perplexities = [side.get("perplexity") for side in sides]
        if None not in perplexities:
            rows.append(["perplexity of health text", *(f"{p:.2f}" for p in perplexities)])
        if rows:
            click.echo()
            io.table(["", "before", "after"], rows, right=("before", "after"))
    if why:
        _render_why(io, shown)
    if provenance and shown.provenance is not None:
        import json

        click.echo("\n" + json.dumps(shown.provenance, indent=2, ensure_ascii=False))


def _render_why(io: IO, shown: ShownCommit) -> None:
    known = [(each, each.why) for each in shown.added if each.why]
    if not shown.added:
        click.echo("\n--why has nothing to explain: this commit puts no facts in")
        return
    if not known:
        click.echo("\nhow well these edits worked is not known: the commit has no scores of its own")
        return
    rows = []
    for each, why in known:
        leverage, agreement = (_mean(why[name]) for name in ("leverage", "agreement"))
        said = "" if each.after is None else "yes" if each.after.get("rewrite_acc") else "no"
        verdict = _verdict(each.after, leverage, agreement, why["left"], sink=why.get("sink", False))
        figures = (number(value) for value in (leverage, why["left"], agreement, why["loss"]))
        rows.append([fact_line(each.fact), said, *figures, verdict])
    click.echo()
    io.table(["fact", *_COLUMNS], rows)
    click.echo()
    for name, meaning in _COLUMNS.items():
        click.echo(f"{name}: {meaning}")


_COLUMNS = {
    "answered": "whether the prompt's answer was the new target",
    "let through": "the share of what the fact's columns ask for that they make at the fact's own keys (1: all of it; "
    "λ and other facts take the rest)",
    "left of z − h": "how much of the way from h, before the edit, to z is missing after it (– without a search for z)",
    "reaches paraphrases": "what the columns make in the paraphrases, against what they make at the fact's own keys "
    "(1: as much; –: no paraphrase has the subject); the answers there may be others all the same",
    "search loss": "the loss of the fact at the end of the search",
    "what may help": "nothing stands out where it is empty",
}


def _mean(by_layer: Mapping[str, float | None] | None) -> float | None:
    known = [figure for figure in (by_layer or {}).values() if figure is not None]
    return sum(known) / len(known) if known else None


def _verdict(
    after: Mapping[str, float | None] | None,
    leverage: float | None,
    agreement: float | None,
    left: float | None,
    *,
    sink: bool = False,
) -> str:
    """What stands out, in words. `left` None: residuals were searched for."""
    if after is not None and not after.get("rewrite_acc"):
        if left is None and not sink and leverage is not None and leverage < _LET_THROUGH:
            return "the solve: lower λ or more layers"
        if left is not None and left > _LEFT:
            return "the solve: lower λ, more layers or passes"
        if sink:
            return "an attention sink: edited behind other text only"
        return "the search: more steps, a larger clamp"
    if agreement is not None and agreement < _APART:
        return "paraphrases have other keys: give phrasings"
    if after is not None and after.get("paraphrase_acc") == 0:
        return "no paraphrase is answered: give phrasings"
    return ""


_LET_THROUGH = 0.3
"""Mean leverage below which λ and the keys of other facts take most of what a column asks for."""
_LEFT = 0.3
"""Share of z − h that is left, above which the solve is why a fact fails."""
_APART = 0.5
"""Share of a column's effect that reaches paraphrases, below which they are likely to miss it."""
