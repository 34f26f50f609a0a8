# SPDX-License-Identifier: Apache-2.0
"""Where the instructions of an I/O go, by function. The clock of a VM in exact cost mode counts
instructions, so samples by the clock are samples by instruction."""

from __future__ import annotations

import collections
import dataclasses
import subprocess

import plan
import workload

_SAMPLES_PER_SECOND = 25_000
# Long enough for fio's own start, which is sampled as well, not to count.
_RUNTIME_MS = 2000
_DATA = "/tmp/perf.data"


def profile(
    path: str, load: workload.Load, group: plan.Group, instructions: int
) -> list[list[object]]:
    """Instructions of one I/O that costs so many, in rows: [count, task, program or module,
    function], the largest first."""
    record = ["perf", "record", "-a", "-q", "-e", "cpu-clock", "-F", str(_SAMPLES_PER_SECOND)]
    longer = dataclasses.replace(group, runtime_ms=_RUNTIME_MS)
    workload.run(path, [load], longer, [*record, "-o", _DATA, "--"])
    report = ["perf", "report", "-i", _DATA, "--stdio", "-q", "--no-children", "--percent-limit"]
    report += ["0.02", "--sort", "comm,dso,symbol", "-t", "|"]
    text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    shares: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 4 or not cells[0].endswith("%"):
            continue
        function = cells[3].split("] ")[-1]
        # A stripped program has addresses instead of functions.
        function = "(no symbols)" if function.startswith("0x") else function
        shares[cells[1], cells[2].strip("[]"), function] += float(cells[0][:-1])
    if not shares:
        raise SystemExit(f"perf report has no functions; it said:\n{text[:2000]}")
    # Rare functions are not in the report; they are like the others.
    total = sum(shares.values())
    return [
        [round(share / total * instructions), *names] for names, share in shares.most_common()
    ]
