#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures block devices inside a VM that runs in exact cost mode, where one instruction takes one
nanosecond: 1e9 / IOPS is then what one I/O costs the whole system. Writes JSON to the path given: for
each cell what each run of it said."""

import argparse
import collections
import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time

NS_PER_SECOND = 1_000_000_000
BATCH = 8
FILE_MIB = 256
SAMPLES_PER_SECOND = 25_000
START_TIMEOUT_S = 120
RAMDISK_FOLDER = "/ramdisk"
FILE_PATH = RAMDISK_FOLDER + "/disk"


def fio(path, pattern, depth, runtime_ms, before=()):
    """Instructions for each I/O. fio submits in batches, and reaps one by one, or in batches when
    the depth ends with a b. `before` are words to start fio with."""
    reaps_batches = depth.endswith("b")
    depth = int(depth.rstrip("b"))
    batch = min(BATCH, depth)
    command = [
        *before,
        "fio", "--name=bench", f"--filename={path}", f"--rw={pattern}", "--bs=4k", "--direct=1",
        "--ioengine=io_uring", f"--iodepth={depth}", f"--iodepth_batch_submit={batch}",
        f"--iodepth_batch_complete_max={batch if reaps_batches else 1}",
        "--time_based", f"--runtime={runtime_ms}ms",
        "--randrepeat=1", "--norandommap=1", "--output-format=json", "--allow_file_create=0",
        f"--size={FILE_MIB}m",
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    job = json.loads(output[output.index("{"):])["jobs"][0]
    if job["error"] != 0:
        raise SystemExit(f"fio on {path} failed with errno {job['error']}")
    iops = job["read" if pattern == "randread" else "write"]["iops"]
    return round(NS_PER_SECOND / iops)


def profile(path, pattern, depth, runtime_ms, cost):
    """The instructions of one I/O by function: [[instructions, program or module, function]]. The
    clock counts instructions, so samples by the clock are samples by instruction."""
    data = "/tmp/perf.data"
    record = ["perf", "record", "-a", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_SECOND),
              "-o", data, "--"]
    fio(path, pattern, depth, runtime_ms, record)
    report = ["perf", "report", "-i", data, "--stdio", "-q", "--no-children", "--percent-limit",
              "0.02", "--sort", "dso,symbol", "-t", "|"]
    text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    shares = collections.Counter()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 3 or not cells[0].endswith("%"):
            continue
        function = cells[2].split("] ")[-1]
        # A stripped program has addresses instead of functions.
        function = "(no symbols)" if function.startswith("0x") else function
        shares[cells[1].strip("[]"), function] += float(cells[0][:-1])
    if not shares:
        raise SystemExit(f"perf report has no functions; it said:\n{text[:2000]}")
    return [[round(share / 100 * cost), *names] for names, share in shares.most_common()]


@contextlib.contextmanager
def served(server, *arguments):
    """Path of a device that the engine serves meanwhile."""
    process = subprocess.Popen([server, "--queues", "1", *arguments], stdout=subprocess.PIPE,
                               text=True)
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        path = process.stdout.readline().strip() if ready else ""
        if not path:
            raise SystemExit(f"{server} {' '.join(arguments)} did not come up")
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait() != 0:
            raise SystemExit(f"{server} {' '.join(arguments)} did not end well")


@contextlib.contextmanager
def kernel_loop(path):
    command = ["losetup", "--find", "--show", "--direct-io=on", path]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def ramdisk():
    device = subprocess.run(["findmnt", "-no", "SOURCE", RAMDISK_FOLDER], check=True,
                            capture_output=True, text=True).stdout.strip()
    subprocess.run(["umount", RAMDISK_FOLDER], check=True)
    try:
        yield device
    finally:
        subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
        subprocess.run(["mount", device, RAMDISK_FOLDER], check=True)


def fill(path):
    chunk = b"\xa5" * (1 << 20)
    with open(path, "wb") as file:
        for _ in range(FILE_MIB):
            file.write(chunk)
        os.fsync(file.fileno())
        # What is cached would be dropped page by page under the first subject's writes.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def quiet():
    """Lets what a mount or a start has left to do finish."""
    os.sync()
    time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--subjects", default="loop,null,null-nometrics,file,file-nometrics,ramdisk")
    parser.add_argument("--depths", default="1,32,32b", help="queue depths; b: reaped in batches")
    parser.add_argument("--patterns", default="randread,randwrite")
    parser.add_argument("--runtime-ms", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each cell")
    parser.add_argument("--profile", help="instructions by function go to this file; needs perf")
    parser.add_argument("--driver", help="module file; the kernel's own without it")
    arguments = parser.parse_args()

    subprocess.run(["insmod", arguments.driver] if arguments.driver else ["modprobe", "ublk_drv"],
                   check=True)
    subprocess.run(["modprobe", "loop"], check=False)
    fill(FILE_PATH)
    null = ("--target", "null", "--size", str(FILE_MIB << 20))
    file = ("--target", "file", "--path", FILE_PATH)
    makers = {
        "loop": lambda: kernel_loop(FILE_PATH),
        "null": lambda: served(arguments.server, *null),
        "null-nometrics": lambda: served(arguments.server, *null, "--no-metrics"),
        "file": lambda: served(arguments.server, *file),
        "file-nometrics": lambda: served(arguments.server, *file, "--no-metrics"),
        "ramdisk": ramdisk,
    }
    results = {}
    profiles = {}
    for subject in arguments.subjects.split(","):
        with makers[subject]() as path:
            quiet()
            for depth in arguments.depths.split(","):
                for pattern in arguments.patterns.split(","):
                    costs = [fio(path, pattern, depth, arguments.runtime_ms)
                             for _ in range(arguments.repeat)]
                    cost = round(statistics.mean(costs))
                    row = f"{subject} qd{depth} {pattern}"
                    results[row] = costs
                    print(f"{subject:>16} qd{depth:<4} {pattern:>9} {cost:>7}", flush=True)
                    if arguments.profile:
                        profiles[row] = profile(path, pattern, depth, arguments.runtime_ms, cost)
    if arguments.profile:
        with open(arguments.profile, "w", encoding="utf-8") as output:
            json.dump(profiles, output, indent=1)
    with open(arguments.output, "w", encoding="utf-8") as output:
        json.dump(results, output, indent=1)


if __name__ == "__main__":
    sys.exit(main())
