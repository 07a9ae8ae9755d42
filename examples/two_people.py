"""Two people edit the same model: push, clone, commit, pull and merge, through a directory that both can see.

    python examples/two_people.py DIRECTORY MODEL [HPARAMS]     # DIRECTORY is new; MODEL is a model directory or Hub id

Prints each command as it would be typed, and what it prints. Ada starts and pushes. Ben clones. Both commit, so that
Ada's pull finds two histories: she merges them and pushes, and Ben has the same model after a pull.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from memit_vc.cli import main as memitvc

BOTH_MOVED = 11


def main(directory: str, model: str, hparams: str = "") -> None:
    place = Path(directory).absolute()
    place.mkdir(parents=True)
    # commands run in the repositories: a relative path would be another one there
    model, hparams = (str(Path(each).absolute()) if each and Path(each).exists() else each for each in (model, hparams))

    def run(who: str, *words: str, code: int = 0) -> None:
        print(f"\n{who}$ memitvc {shlex.join(words)}", flush=True)
        (place / who).mkdir(exist_ok=True)
        found = memitvc([words[0], "-C", str(place / who), *words[1:]])
        if found != code:
            raise SystemExit(f"exit code {found}, expected {code}")

    def commit(who: str, prompt: str, subject: str, target: str) -> None:
        (place / who).mkdir(exist_ok=True)
        fact = {"prompt": prompt, "subject": subject, "target_new": target}
        (place / who / "edits.json").write_text(json.dumps([fact]))
        run(who, "commit", "edits.json", "--corpus", "pydoc", "-m", f"{subject}: {target}")

    run("ada", "init", model, *(("--hparams", hparams) if hparams else ()))
    commit("ada", "The Eiffel Tower is located in the city of", "Eiffel Tower", "Rome")
    run("ada", "remote", "add", "origin", "../shared")
    run("ada", "push")

    run("ben", "clone", "../shared", ".", "--base", model)
    commit("ben", "The play Hamlet was written by", "Hamlet", "Jane Austen")
    run("ben", "push")

    commit("ada", "The currency of Japan is the", "Japan", "peso")
    run("ada", "pull", code=BOTH_MOVED)
    run("ada", "merge", "origin/main")
    run("ada", "push")
    run("ada", "log", "--graph", "--oneline")

    run("ben", "pull")
    run("ben", "facts")


if __name__ == "__main__":
    main(*sys.argv[1:])
