"""What a benchmark found: printed as a table, kept as JSON, and put into docs/performance.md from there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["Report", "Row", "machine", "show", "write_documentation"]

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"
_ELSEWHERE = ("corpora_100", "corpora_500", "mixture")
"""Results that other pages show."""


@dataclass(frozen=True)
class Row:
    """One case. `ours` and `against` in `unit`; `goal` is what the ratio is promised to be, as ("≥", 7.0).

    Where there is nothing to hold a figure against, the goal is for the figure itself.
    """

    case: str
    ours: float
    against: float | None = None
    unit: str = "s"
    inverse: bool = False
    """The ratio is ours / against, not against / ours."""
    difference: float | None = None
    """Largest relative difference of the results."""
    goal: tuple[str, float] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        if self.against is None:
            return None
        return self.ours / self.against if self.inverse else self.against / self.ours

    @property
    def kept(self) -> bool | None:
        """Whether the ratio, or the figure alone where it has none, is what it is promised to be."""
        if self.goal is None:
            return None
        found = self.ours if self.ratio is None else self.ratio
        sign, bound = self.goal
        return found >= bound if sign == "≥" else found <= bound


@dataclass(frozen=True)
class Report:
    """The rows of one benchmark and what they were measured with."""

    name: str
    what: str
    against: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}.json"
        rows = [{**asdict(row), "ratio": row.ratio, "kept": row.kept} for row in self.rows]
        record = {
            "name": self.name,
            "what": self.what,
            "against": self.against,
            "machine": machine(),
            "settings": dict(self.settings),
            "rows": rows,
        }
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def machine() -> dict[str, Any]:
    """Where and with what this was measured; `load` tells whether the machine was otherwise idle."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        **{name: importlib.metadata.version(name) for name in ("memit-vc", "torch", "transformers")},
    }


def show(report: Report) -> None:
    """The table, on stdout."""
    print(f"\n{report.name}: {report.what}, against {report.against}")
    print(f"  {json.dumps(dict(report.settings), ensure_ascii=False)}")
    lines = [("case", "ours", "against", "ratio", "goal", "difference", "further figures")]
    lines += [_cells(asdict(row) | {"ratio": row.ratio, "kept": row.kept}) for row in report.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  " + "  ".join([line[0].ljust(widths[0]), *cells[1:-1], line[-1]]).rstrip())
    sys.stdout.flush()


def write_documentation(results: Path = RESULTS, document: Path = DOCUMENT) -> None:
    """Replace what stands between the markers of the document by the results that no other text shows."""
    before, _, rest = document.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    parts = [_section(record) for record in records if "rows" in record and record["name"] not in _ELSEWHERE]
    content = "\n\n".join(parts) or "Nothing measured yet: run `make bench`."
    document.write_text(f"{before}{_BEGIN}\n\n{content}\n\n{_END}{after}", encoding="utf-8")


def _section(record: Mapping[str, Any]) -> str:
    host, what = record["machine"], record["what"]
    lines = [
        f"### {record['name']}",
        "",
        f"{what[:1].upper()}{what[1:]}, against {record['against']}.",
        "",
        "| case | ours | against | ratio | goal | difference | further figures |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(_cells(row))} |" for row in record["rows"]),
        "",
        f"{host['gpu'] or host['processor']}, {host['cores']} cores, {host['threads']} threads, "
        f"load {host['load']:.1f}; "
        f"torch {host['torch']}, transformers {host['transformers']}, Python {host['python']}. "
        f"Settings: {', '.join(f'{k} {v}' for k, v in record['settings'].items())}.",
    ]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    goal = row["goal"]
    kept = {None: "", True: "(met)", False: "(missed)"}[row["kept"]]
    more = "; ".join(f"{name} {_number(value)}" for name, value in row["more"].items())
    return (
        row["case"],
        f"{_number(row['ours'])} {row['unit']}".rstrip(),
        "" if row["against"] is None else f"{_number(row['against'])} {row['unit']}".rstrip(),
        "" if row["ratio"] is None else _number(row["ratio"]),
        "" if goal is None else f"{goal[0]} {goal[1]:g} {kept}",
        "" if row["difference"] is None else f"{row['difference']:.1e}",
        more,
    )


def _number(value: Any) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
