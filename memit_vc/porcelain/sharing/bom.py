"""`export --bom`: what a model is made of, as a CycloneDX 1.6 bill of materials: base, patches, data, licences."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memit_vc import __version__
from memit_vc.objects import Commit, CommitId, FactId, PatchId, StateId, is_sha256
from memit_vc.porcelain.history.adapters import Adapter, live_adapters
from memit_vc.porcelain.sharing.card import gather_card, model_type
from memit_vc.porcelain.state import LiveState
from memit_vc.remote.card import Card
from memit_vc.repository import Repository
from memit_vc.store.files import check_new_file, write_atomic

_SPDX = {
    name.lower(): name
    for name in ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "GPL-3.0-only")
}
"""The Hub writes licences in small letters. Those that have no SPDX id go by their name."""


@dataclass(frozen=True)
class BomExport:
    """A bill of materials, and what it lists."""

    file: Path
    commit: CommitId
    state: StateId
    commits: int
    patches: int
    facts: int


def export_bom(repository: Repository, revision: str, file: Path) -> BomExport:
    """Write the bill of materials of `revision` to `file`. UsageError if `file` exists.

    The same commit gives the same bytes. Where a local base lies, and its name there, are private and not in it.
    """
    check_new_file(file)
    commit = repository.resolve(revision)
    state = LiveState.at(repository, commit)
    history = [each for each in reversed(repository.log([commit])) if each.parents]
    record = bill(repository, gather_card(repository, commit), state, history)
    write_atomic(file, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n", replace=False)
    return BomExport(file, commit, state.id, len(history), len(state.patches), len(state.live))


def bill(repository: Repository, card: Card, state: LiveState, history: Sequence[Commit]) -> dict[str, Any]:
    """The document. `history` are the commits, oldest first, without the base."""
    base, facts = _base(card), _facts(state)
    data = [facts] if state.live else []
    data += _statistics(repository, state)
    adapters = [_adapter(each) for each in live_adapters(state)]
    family = model_type(repository)
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"memitvc:state:{state.id}",
        "name": f"{base['name']} with {len(state.live)} edited facts",
        "version": card.commit[:10],
        "description": "A language model whose weights were edited by MEMIT. The new answers need not be true.",
        **_licences(card.license),
        "pedigree": {
            "ancestors": [{name: value for name, value in base.items() if name != "bom-ref"}],
            "commits": [_commit(each) for each in history],
            "patches": _patches(state),
        },
        "modelCard": {
            "modelParameters": {
                "task": "text-generation",
                **({"architectureFamily": family} if family else {}),
                "datasets": [{"ref": each["bom-ref"]} for each in data],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {"type": name, "value": value, "slice": when}
                    for name, *values in card.scores
                    for when, value in zip(("before", "after"), values, strict=True)
                ]
            },
        },
        "properties": _properties(commit=card.commit, state=card.state, base=card.base_id),
    }
    time = history[-1].time if history else ""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, card.commit)}",
        "version": 1,
        "metadata": {
            **({"timestamp": time} if time else {}),
            "tools": {"components": [{"type": "application", "name": "memit-vc", "version": __version__}]},
            "component": model,
        },
        "components": [base, *adapters, *data],
        "dependencies": [
            {
                "ref": model["bom-ref"],
                "dependsOn": [base["bom-ref"], *(each["bom-ref"] for each in (*adapters, *data))],
            }
        ],
    }


def _base(card: Card) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"memitvc:base:{card.base_id}",
        "name": card.base or "a checkpoint that is not on the Hub",
        **_licences(card.license),
        "properties": _properties(base=card.base_id),
    }
    if card.base is None:
        return {**made, "description": card.base_about} if card.base_about else made
    if card.base_revision:
        made |= {"version": card.base_revision, "purl": f"pkg:huggingface/{card.base}@{card.base_revision}"}
    return made


def _adapter(adapter: Adapter) -> dict[str, Any]:
    """A LoRA that was imported: others made it, and it has a licence of its own."""
    return {
        "type": "machine-learning-model",
        "bom-ref": f"memitvc:adapter:{adapter.patch}",
        "name": adapter.name,
        **_licences(adapter.licence),
        **({"hashes": [{"alg": "SHA-256", "content": adapter.sha256}]} if is_sha256(adapter.sha256) else {}),
        "properties": _properties(patch=adapter.patch, **({"source": adapter.source} if adapter.source else {})),
    }


def _licences(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    known = _SPDX.get(name.lower())
    return {"licenses": [{"license": {"id": known} if known else {"name": name}}]}


def _commit(commit: Commit) -> dict[str, Any]:
    author = {"name": commit.author, **({"timestamp": commit.time} if commit.time else {})}
    return {"uid": commit.id, "author": author, "message": commit.message}


def _patches(state: LiveState) -> list[dict[str, Any]]:
    """Each patch with the facts whose columns the state takes from it, or the adapter that it is."""
    told: dict[PatchId, list[FactId]] = {}
    names = {each.patch: f"adapter {each.name}" for each in live_adapters(state)}
    for patch, positions in sorted(state.selection.items()):
        columns = state.patches[patch].header.columns
        told[patch] = [columns[n].fact for n in positions or range(len(columns))]
    return [
        {
            "type": "unofficial",
            "diff": {
                "url": f"urn:sha256:{patch}",
                "text": {
                    "contentType": "text/plain",
                    "content": names.get(patch) or "\n".join(_told(state, fact) for fact in facts),
                },
            },
        }
        for patch, facts in told.items()
    ]


def _told(state: LiveState, fact: FactId) -> str:
    found = state.facts[fact]
    return f"{found.prompt} → {found.target}"


def _facts(state: LiveState) -> dict[str, Any]:
    """The facts as data: each as the repository stores it."""
    content = json.dumps([each.fact.to_json() for each in state.live], ensure_ascii=False)
    return _data(
        f"memitvc:facts:{state.id}",
        "the facts that were edited in",
        {"attachment": {"contentType": "application/json", "content": content}},
    )


def _statistics(repository: Repository, state: LiveState) -> list[dict[str, Any]]:
    """The statistics that the patches were computed with. What text they are of may be private and is not in it."""
    found: dict[str, dict[str, Any]] = {}
    for patch in state.patches.values():
        blob = patch.header.provenance
        record = json.loads(repository.blobs.read(blob)) if blob is not None else {}
        statistics = record.get("statistics")
        if isinstance(statistics, dict) and isinstance(statistics.get("id"), str):
            tokens = statistics.get("tokens")
            about = f"second moments of {tokens:,} tokens of text" if isinstance(tokens, int) else "second moments"
            found[statistics["id"]] = _data(
                f"memitvc:statistics:{statistics['id']}",
                about,
                {"properties": _properties(statistics=statistics["id"])},
            )
    return [found[name] for name in sorted(found)]


def _data(ref: str, name: str, contents: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": ref,
        "name": name,
        "data": [{"type": "dataset", "name": name, "contents": contents}],
    }


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"memitvc:{name}", "value": value} for name, value in values.items()]
