#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what a 4 KiB direct I/O costs through the engine, in instructions of the whole system,
beside the kernel's loop device and the bare RAM disk on the same kernel. Each kernel runs in a VM in
exact cost mode, so the numbers are the same on any machine. Prints a table, writes JSON."""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "vm"))

import images  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
VM = HERE.parent / "vm" / "vm.py"
DRIVER = HERE.parent.parent / "driver"
RAMDISK = "400M"
MEMORY_MIB = "1024"
TIMEOUT_S = "3600"

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

# Ours and the kernel's own driver under the same server: never more, in any cell.
STOCK_SUBJECTS = ("null", "file")
STOCK_BOUND = 1.00
# What a profile is made of when nothing else is asked for.
PROFILED = ["--subjects", "null,file", "--depths", "1,32b", "--patterns", "randread"]
MOST_FUNCTIONS = 40
DRIVER_PREFIXES = ("ublk_", "__ublk_")


def run(command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def measure(kernel, server, stock, quick, repeat, profiles):
    """The costs of each run, by row; `profiles`, if it is not None, gets the functions of some."""
    with tempfile.TemporaryDirectory(prefix="ublkd-bench-") as folder:
        out = pathlib.Path(folder) / "out"
        command = [VM, "run", kernel, "--quiet", "--icount", "--ramdisk", RAMDISK, "--mem",
                   MEMORY_MIB, "--timeout", TIMEOUT_S, "--out", out, "--add",
                   f"{server}:/opt/bench/serve_device", "--add", f"{HERE}:/opt/bench/scripts"]
        guest = ["/opt/bench/scripts/guest_bench.py", "--server", "/opt/bench/serve_device",
                 "--output", "/out/bench.json", "--repeat", str(repeat)]
        if not stock:
            module = pathlib.Path(folder) / "module"
            run([VM, "kmod", kernel, DRIVER, module], stdout=subprocess.DEVNULL)
            command += ["--add", f"{module}:/opt/bench/module"]
            guest += ["--driver", "/opt/bench/module/ublk_drv.ko"]
        if profiles is not None:
            root = images.userland([images.PACKAGES, HERE / "packages.txt"])
            command += ["--root", root]
            guest += ["--profile", "/out/profile.json", *PROFILED]
        elif quick:
            guest += ["--subjects", "loop,null,file", "--patterns", "randread"]
        run([*command, "--", "python3", *guest], stdout=sys.stderr)
        if profiles is not None:
            found = json.loads((out / "profile.json").read_text(encoding="utf-8"))
            profiles[kernel + (" stock" if stock else "")] = found
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


def uncertainty(costs):
    """The standard error of the mean, as a part of it; 0 for one run, of which nothing is known."""
    if len(costs) < 2:
        return 0.0
    return statistics.stdev(costs) / math.sqrt(len(costs)) / statistics.mean(costs)


def check_stock(runs):
    """True when our driver costs no more than the kernel's own in any cell, as far as can be told:
    with several requests in flight, how often tasks are switched differs from run to run."""
    good = True
    for column, cells in runs.items():
        stock = runs.get(column + " stock", {})
        for row in (row for row in cells if row in stock and row.split()[0] in STOCK_SUBJECTS):
            ratio = statistics.mean(cells[row]) / statistics.mean(stock[row])
            doubt = 2 * math.hypot(uncertainty(cells[row]), uncertainty(stock[row]))
            too_much = ratio > STOCK_BOUND + doubt
            verdict = "TOO MUCH" if too_much else "ok" if ratio <= STOCK_BOUND else "even"
            good = good and not too_much
            print(f"{column:>12}  {row}, ours to the kernel's driver: {ratio:.3f} +- {doubt:.3f}, "
                  f"must be <= {STOCK_BOUND:.2f}: {verdict}")
    return good


def print_profiles(profiles):
    for column, rows in profiles.items():
        for row, functions in rows.items():
            print(f"\n{column}, {row}: instructions of one I/O by function")
            for count, place, function in functions[:MOST_FUNCTIONS]:
                print(f"{count:>8}  {place:24} {function}")
            rest = functions[MOST_FUNCTIONS:]
            print(f"{sum(count for count, _, _ in rest):>8}  in {len(rest)} others")
            ours = [count for count, _, name in functions if name.startswith(DRIVER_PREFIXES)]
            print(f"{sum(ours):>8}  of all these in functions of the driver")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="the built serve_device program")
    parser.add_argument("--kernels", default="6.1,6.12", help="names for vm.py, with commas")
    parser.add_argument("--stock", action="store_true", help="also the kernel's own driver, where it has one")
    parser.add_argument("--quick", action="store_true", help="reads of loop, null and file alone")
    parser.add_argument("--repeat", type=int, default=1, metavar="N",
                        help="runs of each cell, whose mean is shown; 5 settle what --stock asks")
    parser.add_argument("--profile", action="store_true",
                        help="where the instructions of null and file reads go, by function")
    parser.add_argument("--output", type=pathlib.Path, help="JSON goes here")
    arguments = parser.parse_args()

    runs = {}
    profiles = {} if arguments.profile else None
    for kernel in arguments.kernels.split(","):
        for stock in (False, True) if arguments.stock and kernel != "6.1" else (False,):
            column = kernel + (" stock" if stock else "")
            runs[column] = measure(kernel, arguments.server, stock, arguments.quick,
                                   arguments.repeat, profiles)
    results = {column: {row: round(statistics.mean(costs)) for row, costs in cells.items()}
               for column, cells in runs.items()}
    print_table(results)
    print_profiles(profiles or {})
    good = check_musts(results) & check_stock(runs)
    if arguments.output:
        facts = {"instructions": results, "runs": runs, "functions": profiles or {}}
        arguments.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
