# SPDX-License-Identifier: Apache-2.0
"""Results as tables for people."""

from __future__ import annotations

from typing import Callable, Iterable, Sequence

import judge
import layers
import plan
from results import Place, Results, Runs

_MOST_FUNCTIONS = 30
_PERCENTILES = ("p50", "p95", "p99", "p99.9")


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their cells; the first row is the head, the first column words."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["", title]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _loads(results: Results, group: str) -> list[tuple[str, int, str, int]]:
    """The loads that a group has cells of, in the plan's order."""
    found = {(p.pattern, p.kib, p.depth, p.jobs) for p in results.of_group(group)}
    patterns = [load[0] for load in plan.RANDOM + plan.SEQUENTIAL]
    return sorted(
        found, key=lambda x: (x[3], patterns.index(x[0]), plan.DEPTHS.index(x[2]))
    )


def _subjects(results: Results, group: str) -> list[tuple[str, str]]:
    """Pairs of subject and driver, in the plan's order."""
    pairs = {(p.subject, p.driver) for p in results.of_group(group)}
    names = list(plan.SUBJECTS)
    return sorted(pairs, key=lambda pair: (names.index(pair[0]), pair[1]))


def _subject_name(subject: str, driver: str) -> str:
    return subject if driver != plan.STOCK else f"{subject}, kernel's driver"


def _grid(
    results: Results, kernel: str, group: str, cell: Callable[[Place, Runs], str], title: str
) -> str:
    """Subjects by loads."""
    loads = _loads(results, group)
    head = [Place("", "", group, "", *load).load.replace("rand", "r") for load in loads]
    rows = [["", *head]]
    for subject, driver in _subjects(results, group):
        places = [Place(kernel, driver, group, subject, *load) for load in loads]
        found = [(place, results.runs(place)) for place in places]
        if any(runs for _, runs in found):
            cells = [cell(place, runs) if runs else "-" for place, runs in found]
            rows.append([_subject_name(subject, driver), *cells])
    return _table(title, rows)


def _instructions(_place: Place, runs: Runs) -> str:
    return f"{runs.value:.0f}"


def _ratio_to(results: Results, other: str) -> Callable[[Place, Runs], str]:
    """IOPS in thousands, and as a ratio to those of another subject."""

    def cell(place: Place, runs: Runs) -> str:
        driver = place.driver if plan.SUBJECTS[other].needs_driver else plan.NO_DRIVER
        base = results.runs(
            Place(place.kernel, driver, place.group, other, place.pattern, place.kib, place.depth,
                  place.jobs)
        )
        ratio = f" {runs.value / base.value:5.2f}" if base else ""
        return f"{runs.value / 1000:.1f}k{ratio}"

    return cell


def _latencies(results: Results, kernel: str) -> str | None:
    """Percentiles with one request at a time."""
    rows = [["", *_PERCENTILES]]
    for place in results.of_group("wall"):
        if place.kernel == kernel and place.depth == "1" and place.jobs == 1 and place.kib == 4:
            runs = results.cells[place]
            name = f"{_subject_name(place.subject, place.driver)}, {place.pattern}"
            rows.append([name, *(f"{runs.latency(p):.0f}" for p in _PERCENTILES)])
    title = f"Linux {kernel}: microseconds of one 4k request at a time, by the clock"
    return _table(title, rows) if len(rows) > 1 else None


def _idle(results: Results) -> Iterable[str]:
    for found in results.idle:
        column = judge.column_name(found["kernel"], found["driver"])
        title = f"Linux {column}: {found['devices']} idle devices, {found['cpus']} CPUs"
        rows = [["KiB for each device", ""]]
        rows += [[name, f"{kib:.1f}"] for name, kib in found["kib_per_device"].items()]
        rows += [[f"  of Pss: {n}", f"{k:.1f}"] for n, k in found["mappings_kib_per_device"].items()]
        rows += [[f"  of Slab: {n}", f"{k:.1f}"] for n, k in found["slabs_kib_per_device"].items()]
        for kind, threads in found["threads"].items():
            rows.append([f"{kind}: number", str(threads["threads"])])
            rows.append([f"{kind}: CPUs", f"{threads['cpu']:.4f}"])
            rows.append([f"{kind}: switches/s", f"{threads['switches_per_second']:.2f}"])
        yield _table(title, rows)


def _profiles(results: Results) -> Iterable[str]:
    for found in results.profiles:
        column = judge.column_name(found["kernel"], found["driver"])
        where = f"Linux {column}, {found['subject']} {found['pattern']} qd{found['depth']}"
        rows = [["", "fio", "server", "idle", "sum"]]
        for layer, sides in layers.by_layer(found["rows"]).items():
            cells = [str(sides.get(side, 0)) for side in ("fio", "server", "idle")]
            rows.append([layer, *cells, str(sum(sides.values()))])
        yield _table(f"{where}: instructions of one I/O by layer, and whose task it is", rows)
        functions = [["", "task", "in", ""]]
        functions += [[f, t, d, str(c)] for c, t, d, f in found["rows"][:_MOST_FUNCTIONS]]
        yield _table(f"{where}: the largest functions", functions)


def text(results: Results) -> str:
    """All tables."""
    parts: list[str | None] = []
    for kernel, facts in results.kernels.items():
        name = f"Linux {kernel} ({facts['release']})"
        if any(place.kernel == kernel for place in results.of_group("cost")):
            parts.append(_grid(results, kernel, "cost", _instructions, f"{name}: instructions per I/O"))
        if any(place.kernel == kernel for place in results.of_group("wall")):
            title = f"{name}: IOPS by the clock of an emulated machine, and ratio to the kernel's loop"
            parts.append(_grid(results, kernel, "wall", _ratio_to(results, "loop"), title))
            parts.append(_latencies(results, kernel))
        if any(place.kernel == kernel for place in results.of_group("threads")):
            for base in ("null", "file"):
                parts.append(_threads(results, kernel, base, name))
    parts += [*_idle(results), *_profiles(results)]
    return "\n".join(part for part in parts if part)


def _threads(results: Results, kernel: str, base: str, name: str) -> str:
    """Threads per queue, beside one."""
    rows = [["", *(f"{threads} threads" for threads in (1, 2, 4))]]
    for driver in (plan.OURS, plan.STOCK):
        for jobs in (1, 4):
            cells = []
            one = None
            for suffix in ("", "-2-threads", "-4-threads"):
                place = Place(kernel, driver, "threads", base + suffix, "randread", 4, "32", jobs)
                runs = results.runs(place)
                one = one or runs
                cells.append(
                    f"{runs.value / 1000:.1f}k {runs.value / one.value:.2f}" if runs and one else "-"
                )
            if one:
                words = f"{jobs} job{'s' if jobs > 1 else ''}"
                rows.append([_subject_name(words, driver), *cells])
    return _table(f"{name}: {base}, one queue, 4k randread qd32, IOPS and ratio to one thread", rows)
