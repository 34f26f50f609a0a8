# SPDX-License-Identifier: Apache-2.0
"""The results of a benchmark: what the guests told, as one JSON file (described in README.md)."""

from __future__ import annotations

import json
import math
import pathlib
import statistics
from dataclasses import dataclass, field
from typing import Any, Iterator

import plan

SCHEMA = 1
_PLACE = ("kernel", "driver", "group", "subject", "pattern", "kib", "depth", "jobs")


@dataclass(frozen=True)
class Place:
    """Which cell it is."""

    kernel: str
    driver: str
    group: str
    subject: str
    pattern: str
    kib: int
    depth: str
    jobs: int

    @property
    def load(self) -> str:
        """`4k randread qd32b`, with the jobs when there are several."""
        jobs = f" x{self.jobs}" if self.jobs > 1 else ""
        return f"{self.kib}k {self.pattern} qd{self.depth}{jobs}"


@dataclass
class Runs:
    """What each run of a cell said: instructions for each I/O, or IOPS; latencies by percentile."""

    values: list[float] = field(default_factory=list)
    latency_us: dict[str, list[float]] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Of runs by the clock the median, which one bad run does not move."""
        return statistics.median(self.values) if self.latency_us else statistics.mean(self.values)

    def doubt(self, spread: float) -> float:
        """Twice the standard error of the mean, as a part of it. One run can't tell: then it is
        what single runs are known to be off by."""
        if len(self.values) < 2:
            return spread
        deviation = statistics.stdev(self.values) / math.sqrt(len(self.values))
        return 2 * deviation / statistics.mean(self.values)

    def latency(self, percentile: str) -> float:
        return statistics.median(self.latency_us[percentile])


@dataclass
class Results:
    """All that a benchmark found; `kernels` says what each short name was."""

    kernels: dict[str, dict[str, str]] = field(default_factory=dict)
    cells: dict[Place, Runs] = field(default_factory=dict)
    idle: list[dict[str, Any]] = field(default_factory=list)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add_cell(self, kernel: str, group: str, told: dict[str, Any]) -> None:
        """Takes one run of a cell, as the guest tells of it."""
        place = Place(kernel, group=group, **{key: told[key] for key in _PLACE if key in told})
        runs = self.cells.setdefault(place, Runs())
        runs.values.append(told["instructions" if "instructions" in told else "iops"])
        for percentile, value in told.get("latency_us", {}).items():
            runs.latency_us.setdefault(percentile, []).append(value)

    def add(self, other: Results) -> None:
        """Takes what another benchmark found as well; its runs of a cell join the ones here."""
        self.kernels |= other.kernels
        for place, runs in other.cells.items():
            mine = self.cells.setdefault(place, Runs())
            mine.values += runs.values
            for percentile, values in runs.latency_us.items():
                mine.latency_us.setdefault(percentile, []).extend(values)
        self.idle += other.idle
        self.profiles += other.profiles
        self.problems += other.problems

    def runs(self, place: Place) -> Runs | None:
        return self.cells.get(place)

    def columns(self, group: str) -> list[tuple[str, str]]:
        """Pairs of kernel and driver that a group has cells of."""
        pairs = [(p.kernel, p.driver) for p in self.cells if p.group == group]
        return [pair for pair in dict.fromkeys(pairs) if pair[1] != plan.NO_DRIVER]

    def of_group(self, group: str) -> Iterator[Place]:
        return (place for place in self.cells if place.group == group)

    def to_json(self) -> str:
        """The file's text, one line a cell, so that a change of results can be read."""
        cells = []
        for place, runs in self.cells.items():
            exact = plan.GROUPS[place.group].exact
            facts: dict[str, Any] = {key: getattr(place, key) for key in _PLACE}
            facts["instructions" if exact else "iops"] = runs.values
            if runs.latency_us:
                facts["latency_us"] = runs.latency_us
            cells.append(facts)
        whole = {"schema": SCHEMA, "kernels": self.kernels, "problems": self.problems}
        parts = [json.dumps(whole, indent=1)[:-2]]
        for name, rows in (("idle", self.idle), ("cells", cells), ("profiles", self.profiles)):
            lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
            parts.append(f' "{name}": [\n{lines}\n ]' if rows else f' "{name}": []')
        return ",\n".join(parts) + "\n}\n"

    def save(self, path: pathlib.Path) -> None:
        path.write_text(self.to_json(), encoding="utf-8")


def load(path: pathlib.Path) -> Results:
    """Reads what save() wrote."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts.get("schema") != SCHEMA:
        raise SystemExit(
            f"{path}: its schema is {facts.get('schema')}, not {SCHEMA}; measure again with --output"
        )
    found = Results(kernels=facts["kernels"], problems=facts["problems"])
    found.idle, found.profiles = facts["idle"], facts["profiles"]
    for cell in facts["cells"]:
        place = Place(**{key: cell[key] for key in _PLACE})
        values = cell["instructions" if "instructions" in cell else "iops"]
        found.cells[place] = Runs(values, cell.get("latency_us", {}))
    return found
