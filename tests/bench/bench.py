#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what an I/O costs through the engine, beside the kernel's loop device and the bare RAM
disk on the same kernel: in instructions of the whole system, which are the same on any machine, and
by the clock. Prints tables and verdicts, writes JSON and a chart."""

from __future__ import annotations

import argparse
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vm"))

import chart  # noqa: E402
import guests  # noqa: E402
import host  # noqa: E402
import judge  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
import results as files  # noqa: E402

ALL_KERNELS = "6.1,6.12,7.x"
QUICK_KERNELS = "6.12"
RECORD_JSON = HERE / "results.json"
RECORD_CHART = HERE / "results.svg"
ALL_GROUPS = (*plan.GROUPS, "idle")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    add = parser.add_argument
    add("--kernels", metavar="K,...", help=f"default {ALL_KERNELS}; {QUICK_KERNELS} with --quick")
    add("--stock", action="store_true", help="the kernel's own ublk driver as well, where it has one")
    add("--peers", action="store_true", help="the server of the kernel's own tests as well")
    add("--quick", action="store_true", help="a few 4k reads alone")
    add("--idle", action="store_true", help=f"{plan.IDLE_DEVICES} idle devices as well")
    add("--threads", action="store_true", help="several threads for one queue as well")
    add("--only", metavar="GROUP,...", help=f"these alone of {', '.join(ALL_GROUPS)}")
    add("--subjects", metavar="S,...", help=f"these alone of {', '.join(plan.SUBJECTS)}")
    add("--repeat", type=int, default=0, metavar="N", help="runs of each cell; 5 settle what --stock asks")
    add("--server", type=pathlib.Path, metavar="FILE", help="a serve_device that was built elsewhere")
    add("--profile", action="store_true",
        help="where the instructions of 4k requests go, by layer and function; nothing else;"
        " of loop, null and file, or --subjects")
    add("--record", action="store_true",
        help="all of the above but the profile, into the results that the README shows")
    add("--output", type=pathlib.Path, metavar="FILE", help="the numbers as JSON")
    add("--chart", type=pathlib.Path, metavar="FILE", help="the numbers as a chart (SVG)")
    add("--from", type=pathlib.Path, metavar="FILE", dest="sources", action="append",
        help="measures nothing, and takes the numbers of an earlier --output; of several together")
    return parser


def _words(text: str | None, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    chosen = tuple(text.split(",")) if text else ()
    for word in chosen:
        if word not in known:
            raise SystemExit(f"{what} {word}: there is none; choose from {', '.join(known)}")
    return chosen


def _groups(options: argparse.Namespace) -> tuple[str, ...]:
    if options.profile:
        return ("cost",)
    chosen = _words(options.only, ALL_GROUPS, "--only")
    if chosen:
        return chosen
    more = [group for group in ("threads", "idle") if getattr(options, group)]
    return (*plan.DEFAULT_GROUPS, *more)


def _measure(options: argparse.Namespace) -> files.Results:
    order = guests.Options(
        programs=options.programs,
        server=options.server,
        stock=options.stock,
        peers=options.peers,
        quick=options.quick,
        profile=options.profile,
        repeat=options.repeat,
        subjects=_words(options.subjects, tuple(plan.SUBJECTS), "--subjects"),
    )
    found = files.Results()
    names = options.kernels or (QUICK_KERNELS if options.quick else ALL_KERNELS)
    for kernel in names.split(","):
        for group in _groups(options):
            guests.measure(kernel, group, order, found)
            # What is there is kept, whatever becomes of the rest.
            if options.output:
                found.save(options.output)
    return found


def _load(sources: list[pathlib.Path]) -> files.Results:
    found = files.Results()
    for path in sources:
        found.add(files.load(path))
    return found


def main() -> int:
    options = _parser().parse_args()
    if options.record:
        options.stock = options.peers = options.idle = options.threads = True
        options.output = options.output or RECORD_JSON
        options.chart = options.chart or RECORD_CHART
    try:
        found = _load(options.sources) if options.sources else _measure(options)
    except host.Failure as failure:
        raise SystemExit(f"bench: {failure}") from failure
    print(report.text(found))
    verdicts = judge.judge(found)
    print("\n" + "\n".join(str(verdict) for verdict in verdicts))
    for problem in found.problems:
        print(f"FAILED: {problem}")
    if options.output:
        found.save(options.output)
    if options.chart:
        options.chart.write_text(chart.draw(found), encoding="utf-8")
    too_much = any(verdict.word == judge.TOO_MUCH for verdict in verdicts)
    return 1 if too_much or found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
