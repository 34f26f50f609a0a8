# SPDX-License-Identifier: Apache-2.0
"""Runs fio in the VM: all cells of a subject in one fio, one after the other."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any, Sequence

import plan

NS_PER_SECOND = 1_000_000_000
_NS_PER_US = 1000
_PERCENTILES = (50, 95, 99, 99.9)


@dataclass(frozen=True)
class Load:
    """One cell, as fio sees it."""

    pattern: str
    kib: int
    depth: str
    jobs: int

    @property
    def name(self) -> str:
        return f"{self.pattern}-{self.kib}-{self.depth}-{self.jobs}"


def loads_of(block: plan.Block) -> list[Load]:
    return [
        Load(pattern, kib, depth, block.jobs) for depth in block.depths for pattern, kib in block.loads
    ]


def _section(load: Load) -> list[str]:
    depth = int(load.depth.rstrip("b"))
    batch = min(plan.BATCH, depth)
    lines = [f"[{load.name}]", "stonewall", "new_group", f"rw={load.pattern}", f"bs={load.kib}k"]
    lines += [f"iodepth={depth}", f"iodepth_batch_submit={batch}", f"numjobs={load.jobs}"]
    lines.append(f"iodepth_batch_complete_max={batch if load.depth.endswith('b') else 1}")
    if load.jobs > 1 and load.pattern in ("read", "write"):
        # Each its own part, or they would read the same blocks one after the other.
        part = plan.FILE_MIB // load.jobs
        lines += [f"size={part}m", f"offset_increment={part}m"]
    return lines


def job_file(path: str, loads: Sequence[Load], group: plan.Group) -> str:
    """The orders for fio. In exact cost mode fio itself does as little as it can."""
    lines = ["[global]", f"filename={path}", "direct=1", "ioengine=io_uring", "group_reporting=1"]
    lines += ["time_based=1", f"runtime={group.runtime_ms}ms", "randrepeat=1", "norandommap=1"]
    lines += ["allow_file_create=0", f"size={plan.FILE_MIB}m"]
    if not group.exact:
        lines += ["lat_percentiles=1", f"percentile_list={':'.join(map(str, _PERCENTILES))}"]
    for load in loads:
        lines += _section(load)
    return "\n".join(lines) + "\n"


def _result(job: dict[str, Any], load: Load, group: plan.Group) -> dict[str, Any]:
    side = job["read" if "read" in load.pattern else "write"]
    if group.exact:
        return {"instructions": round(NS_PER_SECOND / side["iops"])}
    found = side["lat_ns"]["percentile"]
    latency = {f"p{float(key):g}": round(ns / _NS_PER_US, 1) for key, ns in found.items()}
    return {"iops": round(side["iops"]), "latency_us": latency}


def run(
    path: str, loads: Sequence[Load], group: plan.Group, before: Sequence[str] = ()
) -> dict[Load, dict[str, Any]]:
    """What each load said of the block device. `before` are words to start fio with."""
    orders = "/tmp/bench.fio"
    with open(orders, "w", encoding="utf-8") as file:
        file.write(job_file(path, loads, group))
    command = [*before, "fio", "--output-format=json", orders]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    start = done.stdout.find("{")
    if start < 0:
        raise SystemExit(f"fio on {path} ended with {done.returncode}: {done.stderr[-1000:]}")
    jobs = {job["jobname"]: job for job in json.loads(done.stdout[start:])["jobs"]}
    results = {}
    for load in loads:
        job = jobs[load.name]
        if job["error"] != 0:
            raise SystemExit(f"fio on {path}, {load.name}: failed with errno {job['error']}")
        results[load] = _result(job, load, group)
    return results
