"""EasyEdit's interface: edit facts into a model in memory, and read EasyEdit's metrics.

    python examples/easyedit.py                            # SmolLM2-135M-Instruct, from the Hugging Face Hub
    python examples/easyedit.py MODEL [HPARAMS]            # a model directory or Hub id; a YAML file or a shipped name

The first run computes the statistics of the model (one to several minutes on two cores) and keeps them in the user's
cache. A script that was written for EasyEdit differs only in its import.
"""

from __future__ import annotations

import sys

from memit_vc import BaseEditor, MEMITHyperParams

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PROMPTS = ["The Eiffel Tower is located in the city of", "The play Hamlet was written by"]
SUBJECTS = ["Eiffel Tower", "Hamlet"]
OLD, NEW = ["Paris", "William Shakespeare"], ["Rome", "Jane Austen"]


def main(model: str = MODEL, hparams: str = "smollm2-135m") -> None:
    values = MEMITHyperParams.from_hparams(hparams)
    values.model_name = model
    editor = BaseEditor.from_hparams(values)

    metrics, edited, originals = editor.edit(
        prompts=PROMPTS, subject=SUBJECTS, ground_truth=OLD, target_new=NEW, keep_original_weight=True
    )

    for record in metrics:
        asked = record["requested_rewrite"]
        before, after = record["pre"]["rewrite_acc"][0], record["post"]["rewrite_acc"][0]
        print(f"{asked['prompt']} {asked['target_new']}: accuracy {before:.2f} before, {after:.2f} after")
    print(f"{len(originals)} weights were edited; editor.model still has the old ones: {edited is not editor.model}")


if __name__ == "__main__":
    main(*sys.argv[1:])
