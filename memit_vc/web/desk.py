"""What a request asks for, done on the open repository and its one loaded model. For one thread at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.errors import UsageError
from memit_vc.page.render import render_live
from memit_vc.porcelain.history.report import gather
from memit_vc.repository import Repository
from memit_vc.web.commands import newest_operation, run

if TYPE_CHECKING:
    from memit_vc.numerics.scores.generation import Generated
    from memit_vc.porcelain.asking.ask import Place
    from memit_vc.porcelain.editing.models import LoadedModel

BEST = 5
"""Tokens shown of each place."""
_LONGEST = 20_000
"""Characters of a field."""
_MOST_TOKENS = 200
_ROWS = 8
"""Facts that a blame shows."""


class Desk:
    """The repository of a directory; opened, and its model loaded, when they are first needed."""

    def __init__(self, directory: Path, revision: str) -> None:
        self._directory, self._revision = directory, revision
        self._opened: Repository | None = None
        self._loaded: LoadedModel | None = None

    @property
    def repository(self) -> Repository:
        if self._opened is None:
            self._opened = Repository.open(self._directory)
        return self._opened

    def close(self) -> None:
        self._loaded = None
        if self._opened is not None:
            self._opened.close()

    def page(self) -> tuple[str, str]:
        """(the page, the policy that its browser is to keep)."""
        newest = newest_operation(self.repository)  # first: what comes meanwhile must not be undone unseen
        report = gather(self.repository, self._revision)
        refs = [name.partition("/")[2] for name in self.repository.refs() if not name.startswith("remotes/")]
        return render_live(report, operation=newest, revisions=["HEAD", "HEAD~1", *refs])

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One prompt at two revisions, token by token; `differ` is the first place where they take different ones."""
        from memit_vc.porcelain.asking.ask import NEW_TOKENS, generated

        sides = [_text(body, "left"), _text(body, "right")]
        tokens, chat = body.get("tokens", NEW_TOKENS), body.get("chat", False)
        if not isinstance(chat, bool) or type(tokens) is not int or not 1 <= tokens <= _MOST_TOKENS:
            raise UsageError(f"give 1 to {_MOST_TOKENS} tokens", hint="Ask for more with `memitvc ask -n`.")
        (row,) = generated(
            self.repository,
            [_text(body, "prompt")],
            sides,
            chat=chat,
            new_tokens=tokens,
            best=BEST,
            loaded=self._model(),
        )
        left, right = row[0][1].ids, row[1][1].ids
        both = zip(left, right, strict=False)
        differ = next((place for place, (a, b) in enumerate(both) if a != b), min(len(left), len(right)))
        return {"sides": [_side(*each) for each in row], "differ": None if left == right else differ}

    def blame(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The live facts that move the answer to a prompt most."""
        from memit_vc.porcelain.asking.blame import blame

        found = blame(self.repository, _text(body, "prompt"), revision=_text(body, "revision"), loaded=self._model())
        facts = [
            {
                "commit": entry.commit,
                "influence": entry.influence,
                "facts": [{"id": f.id, "prompt": f.prompt, "target": f.target} for f in entry.facts],
            }
            for entry in found.facts[:_ROWS]
        ]
        return {"commit": found.commit, "subject": found.subject, "facts": facts}

    def run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a button says."""
        seen = body.get("seen")
        if type(seen) is not int:
            raise UsageError("the request does not say what its page has seen", hint="Load the page again.")
        return {"done": run(self.repository, _text(body, "command"), seen=seen)}

    def _model(self) -> LoadedModel:
        from memit_vc.porcelain.editing.models import model_of

        if self._loaded is None:
            self._loaded = model_of(self.repository, None)
        return self._loaded


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise UsageError(f"{name}: give a text of 1 to {_LONGEST:,} characters", hint="Fill the field in.")
    return value


def _side(place: Place, made: Generated) -> dict[str, Any]:
    revision, commit, state = place
    best = [[[choice.text, choice.p] for choice in choices] for choices in made.best]
    return {"revision": revision, "commit": commit, "state": state, "text": made.text, "best": best}
