# SPDX-License-Identifier: Apache-2.0
"""What devices cost that nobody uses: a real ublkd with many of them, all of its own defaults."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator

import plan
import subjects

_FOLDER = subjects.RAMDISK_FOLDER + "/idle"
_SOCKET = "/run/ublkd/ublkd.sock"
_START_SECONDS = 60
_SETTLE_SECONDS = 5
# Until devices that nobody uses have given their memory back, 30 s after their last request.
_IDLE_AFTER_SECONDS = 40
_FILE_BYTES = 1 << 30
_CALLERS = 4
_STACK_KIB = 8192
# Parts of the kernel's memory, by their names in /proc/meminfo.
_PARTS = ("Slab", "KernelStack", "PageTables", "VmallocUsed", "Percpu", "AnonPages", "AnonHugePages", "Mlocked")


def _ctl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [f"{subjects.FOLDER}/ublkctl", "--socket", _SOCKET, *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@contextlib.contextmanager
def _ublkd() -> Iterator[subprocess.Popen[bytes]]:
    command = [f"{subjects.FOLDER}/ublkd", "--on-stop", "stop", "--log-level", "warning"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while _ctl("device", "list").returncode != 0:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("ublkd did not come up")
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _make_files() -> None:
    """Before anything is counted: they lie in memory, too."""
    os.makedirs(_FOLDER, exist_ok=True)
    for number in range(plan.IDLE_DEVICES):
        with open(f"{_FOLDER}/{number}", "wb") as file:
            file.truncate(_FILE_BYTES)


def _attach(number: int) -> None:
    done = _ctl("device", "create", "--file", f"{_FOLDER}/{number}")
    if done.returncode != 0:
        raise SystemExit(f"device {number} of {plan.IDLE_DEVICES}: {done.stderr}")


def _fields(path: str) -> dict[str, int]:
    """The numbers of a /proc file of lines `Name:   123 kB`."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE)}


def _memory(pid: int) -> dict[str, int]:
    """KiB of the whole system, and of ublkd, without what could be dropped at once."""
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="utf-8")
    system = _fields("/proc/meminfo")
    process = _fields(f"/proc/{pid}/smaps_rollup")
    used = {"used": system["MemTotal"] - system["MemFree"], "ublkd Pss": process["Pss"]}
    used["unavailable"] = system["MemTotal"] - system["MemAvailable"]
    return used | {part: system[part] for part in _PARTS if part in system}


def _slabs() -> dict[str, int]:
    """KiB of each kind of kernel object."""
    text = pathlib.Path("/proc/slabinfo").read_text(encoding="utf-8")
    sizes = {}
    for line in text.splitlines()[2:]:
        words = line.split()
        slabs, pages = int(words[14]), int(words[5])
        sizes[words[0]] = slabs * pages * os.sysconf("SC_PAGESIZE") // 1024
    return sizes


def _kind_of(name: str, size_kib: int, flags: str) -> str:
    """What a mapping of ublkd is for."""
    if name.endswith("ublkd") or ".so" in name:
        return "program and libraries"
    if name:
        return re.sub(r"\d+$", "", name)
    if "lo" in flags.split():
        return "request buffers"
    return "thread stacks" if size_kib == _STACK_KIB else "malloc"


def _mappings(pid: int) -> dict[str, int]:
    """KiB that ublkd has of its mappings, by what they are for."""
    kinds: collections.Counter[str] = collections.Counter()
    text = pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8")
    head = r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$"
    parts = re.split(head, text, flags=re.MULTILINE)
    for name, body in zip(parts[1::2], parts[2::2]):
        fields = {key: value.strip() for key, value in re.findall(r"^(\w+):(.*)$", body, re.MULTILINE)}
        kind = _kind_of(name, int(fields["Size"].split()[0]), fields["VmFlags"])
        kinds[kind] += int(fields["Pss"].split()[0])
    return dict(kinds)


def _activity(pid: int) -> dict[str, dict[str, int]]:
    """For each kind of thread (the queue threads, and others by name): clock ticks of CPU time, and how often it was switched to."""
    kinds: dict[str, dict[str, int]] = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text(encoding="utf-8").strip()
            stat = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            status = _fields(str(task / "status"))
        except FileNotFoundError:
            continue  # It has ended.
        kind = "queue threads" if re.match(r"ublk\d+-q", name) else name
        entry = kinds.setdefault(kind, {"threads": 0, "ticks": 0, "switches": 0})
        entry["threads"] += 1
        entry["ticks"] += int(stat[11]) + int(stat[12])
        entry["switches"] += status["voluntary_ctxt_switches"]
        entry["switches"] += status["nonvoluntary_ctxt_switches"]
    return kinds


def _growth(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    """KiB for each device."""
    grown = {name: (after[name] - before.get(name, 0)) / plan.IDLE_DEVICES for name in after}
    return {name: round(kib, 1) for name, kib in grown.items()}


def measure() -> dict[str, object]:
    """Memory for each device, and what ublkd does in some seconds in which nobody asks anything."""
    _make_files()
    with _ublkd() as process:
        pid = process.pid
        time.sleep(_SETTLE_SECONDS)
        memory, slabs, mappings = _memory(pid), _slabs(), _mappings(pid)
        with ThreadPoolExecutor(_CALLERS) as callers:
            list(callers.map(_attach, range(plan.IDLE_DEVICES)))
        time.sleep(_IDLE_AFTER_SECONDS)
        grown = _growth(memory, _memory(pid))
        slabs_grown = _growth(slabs, _slabs())
        mappings_grown = _growth(mappings, _mappings(pid))
        before = _activity(pid)
        time.sleep(plan.IDLE_SECONDS)
        after = _activity(pid)
    ticks = os.sysconf("SC_CLK_TCK")
    none = {"ticks": 0, "switches": 0}
    threads = {
        kind: {
            "threads": entry["threads"],
            "cpu": (entry["ticks"] - before.get(kind, none)["ticks"]) / ticks / plan.IDLE_SECONDS,
            "switches_per_second": (entry["switches"] - before.get(kind, none)["switches"])
            / plan.IDLE_SECONDS,
        }
        for kind, entry in after.items()
    }
    return {
        "devices": plan.IDLE_DEVICES,
        "seconds": plan.IDLE_SECONDS,
        "cpus": os.cpu_count(),
        "kib_per_device": grown,
        "slabs_kib_per_device": {name: kib for name, kib in slabs_grown.items() if kib >= 1},
        "mappings_kib_per_device": {name: kib for name, kib in mappings_grown.items() if kib >= 1},
        "threads": threads,
    }
