#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what a 4 KiB direct I/O costs through the engine, in instructions of the whole system,
beside the kernel's loop device and the bare RAM disk on the same kernel. Each kernel runs in a VM in
exact cost mode, so the numbers are the same on any machine. Prints a table, writes JSON."""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
VM = HERE.parent / "vm" / "vm.py"
DRIVER = HERE.parent.parent / "driver"
RAMDISK = "400M"
MEMORY_MIB = "1024"
TIMEOUT_S = "1200"

# Name, subject, the one it is compared with, pattern, depth (b: fio reaps in batches, as an
# application does that keeps many requests in flight), what the ratio must not exceed.
MUSTS = (
    ("file, qd32, to kernel loop", "file", "loop", "randread", "32", 1.15),
    ("file, qd32, to kernel loop", "file", "loop", "randwrite", "32", 1.15),
    ("file, qd32b, to kernel loop", "file", "loop", "randread", "32b", 1.15),
    ("file, qd32b, to kernel loop", "file", "loop", "randwrite", "32b", 1.15),
    ("metrics on to off, null, qd32", "null", "null-nometrics", "randread", "32", 1.01),
    ("metrics on to off, null, qd1", "null", "null-nometrics", "randread", "1", 1.01),
    ("metrics on to off, file, qd32", "file", "file-nometrics", "randread", "32", 1.01),
)


def run(command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def measure(kernel, server, stock, quick):
    with tempfile.TemporaryDirectory(prefix="ublkd-bench-") as folder:
        out = pathlib.Path(folder) / "out"
        command = [VM, "run", kernel, "--quiet", "--icount", "--ramdisk", RAMDISK, "--mem",
                   MEMORY_MIB, "--timeout", TIMEOUT_S, "--out", out, "--add",
                   f"{server}:/opt/bench/serve_device", "--add", f"{HERE}:/opt/bench/scripts"]
        guest = ["/opt/bench/scripts/guest_bench.py", "--server", "/opt/bench/serve_device",
                 "--output", "/out/bench.json"]
        if not stock:
            module = pathlib.Path(folder) / "module"
            run([VM, "kmod", kernel, DRIVER, module], stdout=subprocess.DEVNULL)
            command += ["--add", f"{module}:/opt/bench/module"]
            guest += ["--driver", "/opt/bench/module/ublk_drv.ko"]
        if quick:
            guest += ["--subjects", "loop,null,file", "--patterns", "randread"]
        run([*command, "--", "python3", *guest], stdout=sys.stderr)
        return json.loads((out / "bench.json").read_text(encoding="utf-8"))


def print_table(results):
    columns = list(results)
    rows = {row: None for column in results.values() for row in column}
    print(f"{'instructions per I/O':32}" + "".join(f"{column:>14}" for column in columns))
    for row in rows:
        cells = (results[column].get(row) for column in columns)
        print(f"{row:32}" + "".join(f"{cell if cell is not None else '-':>14}" for cell in cells))


def check_musts(results):
    """True when every ratio is within its bound."""
    good = True
    for column, costs in results.items():
        for name, subject, other, pattern, depth, bound in MUSTS:
            cost = costs.get(f"{subject} qd{depth} {pattern}")
            base = costs.get(f"{other} qd{depth} {pattern}")
            if cost is None or base is None:
                continue
            ratio = cost / base
            verdict = "ok" if ratio <= bound else "TOO MUCH"
            good = good and ratio <= bound
            print(f"{column:>12}  {name} ({pattern}): {ratio:.3f}, must be <= {bound}: {verdict}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="the built serve_device program")
    parser.add_argument("--kernels", default="6.1,6.12", help="names for vm.py, with commas")
    parser.add_argument("--stock", action="store_true", help="also the kernel's own driver, where it has one")
    parser.add_argument("--quick", action="store_true", help="reads of loop, null and file alone")
    parser.add_argument("--output", type=pathlib.Path, help="JSON goes here")
    arguments = parser.parse_args()

    results = {}
    for kernel in arguments.kernels.split(","):
        results[kernel] = measure(kernel, arguments.server, False, arguments.quick)
        if arguments.stock and kernel != "6.1":
            results[kernel + " stock"] = measure(kernel, arguments.server, True, arguments.quick)
    print_table(results)
    good = check_musts(results)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
