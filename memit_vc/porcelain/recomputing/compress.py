"""`squash --compress`: all columns of HEAD's state become fewer ones, within a tolerance that is measured.

Unlike a plain squash this changes the weights, so it is a commit on top, as the re-solving verbs make: a revert of it
brings every bit back. The columns of the new patch belong to all facts together. The facts' constraints come along, so
that `--resolve` can still take one out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memit_vc.errors import EngineError, MemitVCError, UsageError
from memit_vc.numerics.exact.compress import Compressed as Smaller
from memit_vc.numerics.exact.compress import compress as fewer
from memit_vc.numerics.exact.constraints import Constraints, encode_constraints, read_constraints
from memit_vc.objects import ColumnId, FactId, JsonValue, PatchColumn, PatchId, canonical_json
from memit_vc.porcelain.editing.pack import pack
from memit_vc.porcelain.editing.solver import refuse_adapters
from memit_vc.porcelain.history.settings import settings_json, settings_of
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, count, silent
from memit_vc.repository import Repository


@dataclass(frozen=True, kw_only=True)
class Compressed(Outcome):
    """`ranks` and `errors` are those of each weight's new update; `bytes_before` what the patches of the state take."""

    patch: PatchId
    facts: int
    columns: int
    """Columns of the state that were replaced."""
    ranks: Mapping[str, int]
    errors: Mapping[str, float]
    """‖D′ − D‖ / ‖D‖, snapping included."""
    bytes_before: int
    bytes_after: int

    @property
    def rank(self) -> int:
        return max(self.ranks.values())

    @property
    def error(self) -> float:
        return max(self.errors.values())


def compress(
    repository: Repository, tolerance: float, *, message: str | None = None, progress: Progress = silent
) -> Compressed:
    """Replace HEAD's columns by one patch of the smallest ranks within `tolerance` (a share of each tensor's update).
    No model is loaded.

    UsageError for a tolerance out of (0, 1); EngineError if the error is larger, as snapping alone can make it;
    MemitVCError if nothing is live, or no column can go.
    """
    if not 0 < tolerance < 1:
        raise UsageError(
            f"a tolerance of {tolerance} is not between 0 and 1", hint="Give a share of the norm, such as 1e-3."
        )
    head = repository.head()
    state = LiveState.at(repository, head.commit)
    live = {entry.fact.id: entry.column for entry in state.live}
    refuse_adapters(state, "squash --compress")
    if not live:
        raise MemitVCError(
            "nothing to compress: no fact is live", hint="Commit facts first, or switch to a branch that has some."
        )
    repository.database.check_writable()
    found = _within(state, tolerance, progress)
    ranks, errors = {n: each.rank for n, each in found.items()}, {n: each.error for n, each in found.items()}
    order, constraints = _constraints(state, live)
    provenance: dict[str, JsonValue] = {
        "algorithm": "compress",
        "tolerance": tolerance,
        "ranks": dict(ranks),
        "errors": dict(errors),
        "sources": sorted(state.selection),
        "settings": settings_json(settings_of(state)),
    }
    patch, blobs = pack(
        repository,
        [PatchColumn(fact=fact) for fact in order],
        {name: each.term for name, each in found.items()},
        constraints=constraints,
        provenance=canonical_json(provenance),
        joint=True,
    )
    LiveState(repository, ()).check_exact(patch)
    change = state.change_to(patch.columns)
    made = draft(
        repository,
        [head.commit],
        change,
        kind="squash",
        message=message or f"Compress {count(len(live), 'fact')} to rank {max(ranks.values())}",
        patches=[patch.id],
        provenance=patch.header.provenance,
        details={"compress": tolerance, "error": max(errors.values()), "rank": max(ranks.values())},
    )
    before = sum(repository.patch_path(source).stat().st_size for source in state.selection)
    return Compressed(
        **vars(record(repository, head, [made], patches=[patch], blobs=blobs)),
        patch=patch.id,
        facts=len(live),
        columns=len(state.columns),
        ranks=ranks,
        errors=errors,
        bytes_before=before,
        bytes_after=len(blobs[-1]),
    )


def _within(state: LiveState, tolerance: float, progress: Progress) -> dict[str, Smaller]:
    """The compressed update of each weight that the state changes; errors as for `compress`."""
    found: dict[str, Smaller] = {}
    for done, weight in enumerate(state.touched):
        progress("compress", done, len(state.touched))
        made = fewer(state.terms(weight), weight, tolerance)
        if made is not None and made.error > tolerance:
            raise EngineError(
                f"{weight.name}: the error is {made.error:.2g} at rank {made.rank}, above {tolerance:g}",
                hint="Allow a larger tolerance: rounding to the grid alone costs that much.",
            )
        if made is not None:
            found[weight.name] = made
    progress("compress", len(state.touched), len(state.touched))
    if all(made.rank >= made.columns for made in found.values()):
        raise MemitVCError(
            f"at a tolerance of {tolerance:g} no column can go",
            hint="Allow a larger tolerance; or put the same columns into one patch: memitvc squash --all",
        )
    return found


def _constraints(state: LiveState, live: Mapping[FactId, ColumnId]) -> tuple[Sequence[FactId], bytes | None]:
    """The live facts in the order of the new patch, and their constraints in that order: None if some are not here, or
    are of different layers.
    """
    positions: dict[PatchId, dict[FactId, int]] = {}
    repository = state.repository
    for source in state.sources:
        if live[source.fact] == source.column:
            positions.setdefault(source.patch, {})[source.fact] = source.position
    order = [fact for facts in positions.values() for fact in facts]
    parts = []
    for patch, facts in positions.items():
        blob = repository.patch(patch).constraints
        if blob is None or not repository.blobs.has(blob):
            return order, None
        parts.append(read_constraints(repository.object_path(blob), list(facts.values())))
    names = [(part.keys.keys(), part.targets.keys()) for part in parts]
    if any(each != names[0] for each in names):
        return order, None
    joined = Constraints.joined(parts)
    return order, encode_constraints(joined.keys, joined.targets, joined.z)
