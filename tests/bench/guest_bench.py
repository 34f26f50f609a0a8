#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures in the VM what plan.py lists; each result is a line of JSON on the standard output, told
as soon as it is known."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import idle
import plan
import profiling
import subjects
import workload


def tell(kind: str, **facts: object) -> None:
    print(json.dumps({"kind": kind, **facts}), flush=True)


def quiet() -> None:
    """Lets what a mount or a start has left to do finish."""
    os.sync()
    time.sleep(0.2)


def measure(order: dict, driver: str, name: str, block: plan.Block) -> None:
    """All cells of one subject in one block."""
    group = plan.GROUPS[order["group"]]
    loads = workload.loads_of(block)
    with subjects.make(name, block.queues) as path:
        quiet()
        for load, result in workload.run(path, loads, group).items():
            tell("cell", driver=driver, subject=name, pattern=load.pattern, kib=load.kib,
                 depth=load.depth, jobs=load.jobs, **result)
            if order["profile"]:
                rows = profiling.profile(path, load, group, result["instructions"])
                tell("profile", driver=driver, subject=name, pattern=load.pattern, kib=load.kib,
                     depth=load.depth, rows=rows)


def wanted(order: dict, driver: str, name: str, block: plan.Block) -> bool:
    """Whether a subject is measured under a driver: what needs none with the first one alone, and
    other servers on the driver that comes with the kernel, where there is one."""
    subject = plan.SUBJECTS[name]
    if order["subjects"] and name not in order["subjects"]:
        return False
    if subject.peer:
        return order["peers"] and driver == order["drivers"][-1]
    if not subject.needs_driver:
        return driver == order["drivers"][0]
    return driver != plan.STOCK or block.stock


def run_block(order: dict, driver: str, block: plan.Block) -> None:
    """A block under one driver."""
    for name in block.subjects:
        if not wanted(order, driver, name, block):
            continue
        subject = plan.SUBJECTS[name]
        shown = driver if subject.needs_driver else plan.NO_DRIVER
        try:
            measure(order, shown, name, block)
        except subjects.Unavailable as reason:
            if not subject.optional:
                raise SystemExit(f"{name}, driver {driver}: {reason}") from reason
            tell("left out", driver=shown, subject=name, why=str(reason))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("order", help="what bench.py wants, as JSON")
    order = json.loads(parser.parse_args().order)

    version = subprocess.run(["fio", "--version"], check=True, capture_output=True, text=True)
    tell("facts", release=os.uname().release, fio=version.stdout.strip())
    if order["group"] == "idle":
        subjects.load_driver(order["drivers"][0])
        tell("idle", driver=order["drivers"][0], **idle.measure())
        return 0
    subprocess.run(["modprobe", "loop"], check=False)
    subjects.fill_file()
    group = plan.GROUPS[order["group"]]
    if order["profile"]:
        blocks = plan.profiled(tuple(order["subjects"]))
    else:
        blocks = group.quick if order["quick"] else group.blocks
    # Passes go over everything again: a machine that is busy for a while then spoils one of them.
    for _ in range(order["repeat"] or group.passes):
        for driver in order["drivers"]:
            subjects.load_driver(driver)
            for block in blocks:
                run_block(order, driver, block)
    return 0


if __name__ == "__main__":
    sys.exit(main())
