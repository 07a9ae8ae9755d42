from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memit_vc.cli.io import IO, verb
from memit_vc.objects.measures import number

if TYPE_CHECKING:
    from memit_vc.objects import JsonValue
    from memit_vc.porcelain.editing.evaluate import MeasuredFact
    from memit_vc.porcelain.history.scores_at_commit import Scores

_SHOWN = {"ES": "ES", "PS": "PS", "NS": "NS", "argmax": "rewrite_acc"}


@verb(name="facts", example="memitvc facts --subject Eiffel\nmemitvc facts v1.0 --csv")
@click.argument("revision", default="HEAD")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, in the form that `commit` reads.")
@click.option("--subject", help="Only facts whose subject contains this.")
@click.option("--commit", "commits", multiple=True, metavar="REV", help="Only facts that this commit added.")
@click.option(
    "--measure",
    is_flag=True,
    help="Also show the scores of each fact right after its commit and at REVISION. This loads the model.",
)
def command(io: IO, revision: str, as_csv: bool, subject: str | None, commits: tuple[str, ...], measure: bool) -> None:
    """List the facts that are live at REVISION (default HEAD).

    --json and --csv print records that `memitvc commit` reads. To edit the live facts into another base, use `memitvc
    rebase --base`.
    """
    from memit_vc.porcelain.history.facts import facts

    if as_csv and (measure or io.json):
        raise click.UsageError(f"--csv and {'--measure' if measure else '--json'} do not go together")
    with io.repository() as repository:
        found = facts(repository, revision)
        live = len(found)
        wanted = {repository.resolve(name) for name in commits}
        dates = {id_: commit.time for id_, commit in repository.commits({entry.commit for entry in found}).items()}
    if subject is not None:
        from memit_vc.objects import as_seen

        asked = as_seen(subject).casefold()
        found = [entry for entry in found if asked in as_seen(entry.fact.subject).casefold()]
    if commits:
        found = [entry for entry in found if entry.commit in wanted]
    if as_csv:
        from memit_vc.edits import write_records

        io.records(write_records([entry.fact for entry in found], format="csv"))
        return

    measured: list[MeasuredFact] = []
    if measure:
        from memit_vc.porcelain.editing.evaluate import measured_facts

        with io.repository() as repository, io.progress() as progress:
            measured = measured_facts(repository, found, revision=revision, progress=progress)

    in_chat = any(each.now.get("chat_acc") is not None for each in measured)
    shown = {**_SHOWN, **({"in chat": "chat_acc"} if in_chat else {})} if measure else {}

    def render() -> None:
        if not found:
            click.echo(f"none of the {live} live facts is like that" if live else "no facts are live")
            return
        io.table(
            ["fact", "subject", "prompt", "target", "commit", "date", *shown],
            [
                [e.fact.id[:10], e.fact.subject, e.fact.prompt, e.fact.target, e.commit[:10], dates[e.commit][:10]]
                + [
                    f"{number(_of(measured[i].then, m), 1)} → {number(measured[i].now.get(m), 1)}"
                    for m in shown.values()
                ]
                for i, e in enumerate(found)
            ],
        )

    io.emit(
        [
            {
                **entry.fact.to_json(),
                "id": entry.fact.id,
                "commit": entry.commit,
                "time": dates[entry.commit] or None,
                **(_scores(measured[index]) if measure else {}),
            }
            for index, entry in enumerate(found)
        ],
        render,
    )


def _of(scores: Scores | None, measure: str) -> float | None:
    return None if scores is None else scores.get(measure)


def _scores(fact: MeasuredFact) -> dict[str, JsonValue]:
    return {"scores_at_commit": None if fact.then is None else dict(fact.then), "scores_now": dict(fact.now)}
