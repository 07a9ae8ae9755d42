"""memit-vc: version control for the facts inside a language model.

`from_pretrained` and `apply_state` give edited models in memory; the other names below are EasyEdit's. Their first use
loads torch; `import memit_vc` does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memit_vc.compat.editor import BaseEditor as BaseEditor
    from memit_vc.compat.memit import apply_memit_to_model as apply_memit_to_model
    from memit_vc.compat.memit import execute_memit as execute_memit
    from memit_vc.compat.summary import summary_metrics as summary_metrics
    from memit_vc.hparams import MEMITHyperParams as MEMITHyperParams
    from memit_vc.porcelain.inmemory import apply_state as apply_state
    from memit_vc.porcelain.inmemory import from_pretrained as from_pretrained

__version__ = "0.1.0"

__all__ = [
    "BaseEditor",
    "MEMITHyperParams",
    "apply_memit_to_model",
    "apply_state",
    "execute_memit",
    "from_pretrained",
    "summary_metrics",
]

_LAZY = {
    "BaseEditor": "memit_vc.compat.editor",
    "MEMITHyperParams": "memit_vc.hparams",
    "apply_memit_to_model": "memit_vc.compat.memit",
    "apply_state": "memit_vc.porcelain.inmemory",
    "execute_memit": "memit_vc.compat.memit",
    "from_pretrained": "memit_vc.porcelain.inmemory",
    "summary_metrics": "memit_vc.compat.summary",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'memit_vc' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
