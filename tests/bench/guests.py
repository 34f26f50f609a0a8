# SPDX-License-Identifier: Apache-2.0
"""Runs a group of measurements in a VM, and takes what the guest tells into the results."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import images
import kernels
import kmod
import peers
import plan
from results import Results

HERE = pathlib.Path(__file__).resolve().parent
VM = HERE.parent / "vm" / "vm.py"
DRIVER = HERE.parent.parent / "driver"
_MODULE = "ublk_drv.ko"
_RAMDISK = "400M"
_MEMORY_MIB = 1024
_IDLE_MEMORY_MIB = 2048
_IDLE_CPUS = 4
_TIMEOUT_SECONDS = 3600
_GUEST_FOLDER = "/opt/bench"


@dataclass(frozen=True)
class Options:
    """What to measure. `programs` is the build's folder."""

    programs: pathlib.Path
    server: pathlib.Path | None = None  # Another serve_device than the build's.
    stock: bool = False
    peers: bool = False
    quick: bool = False
    profile: bool = False
    repeat: int = 0  # 0: as often as the group says.
    subjects: tuple[str, ...] = ()  # Empty: all.


def drivers(kernel: str, options: Options) -> list[str]:
    """The drivers to measure a kernel with; some kernels have none of their own."""
    if not options.stock:
        return [plan.OURS]
    own = any(pathlib.Path(kernels.fetch(kernel).modules).rglob(_MODULE))
    return [plan.OURS, plan.STOCK] if own else [plan.OURS]


def _files(kernel: str, options: Options) -> dict[pathlib.Path, str]:
    """What the guest gets, and where it sees it."""
    programs = options.programs
    modules = programs / "modules" / kernel
    kmod.build(kernel, DRIVER, modules)
    files = {
        HERE: f"{_GUEST_FOLDER}/scripts",
        modules: f"{_GUEST_FOLDER}/module",
        options.server or programs / "tests/bench/serve_device": f"{_GUEST_FOLDER}/serve_device",
        programs / "daemon/server/ublkd": f"{_GUEST_FOLDER}/ublkd",
        programs / "daemon/ctl/ublkctl": f"{_GUEST_FOLDER}/ublkctl",
    }
    if options.peers:
        files[peers.collect()] = f"{_GUEST_FOLDER}/peer"
    return files


def _command(
    kernel: str, group: str, options: Options, files: dict[pathlib.Path, str]
) -> list[str]:
    order = {
        "group": group,
        "drivers": drivers(kernel, options),
        "peers": options.peers,
        "quick": options.quick,
        "profile": options.profile,
        "repeat": options.repeat,
        "subjects": options.subjects,
    }
    command = [str(VM), "run", kernel, "--quiet", "--ramdisk", _RAMDISK]
    command += ["--timeout", str(_TIMEOUT_SECONDS)]
    if group == "idle":
        command += ["--smp", str(_IDLE_CPUS), "--mem", str(_IDLE_MEMORY_MIB)]
    elif plan.GROUPS[group].exact:
        command += ["--icount", "--mem", str(_MEMORY_MIB)]
    else:
        command += ["--smp", str(plan.GROUPS[group].cpus), "--mem", str(_MEMORY_MIB)]
    if options.profile:
        root = images.userland([images.PACKAGES, HERE / "packages.txt"])
        command += ["--root", str(root)]
    for path, place in files.items():
        command += ["--add", f"{path}:{place}"]
    words = ["python3", f"{_GUEST_FOLDER}/scripts/guest_bench.py", json.dumps(order)]
    return [*command, "--", *words]


def _progress(kernel: str, group: str, told: dict[str, Any]) -> str:
    """What a person who waits sees of a result."""
    subject = told.get("subject", "")
    where = f"{kernel:>6} {group:>7} {told.get('driver', ''):>5} {subject:20}"
    if told["kind"] == "left out":
        return f"{where} left out: {told['why']}"
    if told["kind"] == "idle":
        return f"{where} {told['kib_per_device']['used']} KiB for each device"
    if told["kind"] == "profile":
        return f"{where} profile: {len(told['rows'])} functions"
    load = f"{told['kib']}k {told['pattern']} qd{told['depth']} x{told['jobs']}"
    value = told.get("instructions", told.get("iops"))
    return f"{where} {load:24} {value:>9} {'instructions' if 'instructions' in told else 'IOPS'}"


def _told(line: str) -> dict[str, Any] | None:
    """A result, if that is what the guest's line is; else a log line of a server, or a complaint."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) and "kind" in told else None


def _take(results: Results, kernel: str, group: str, told: dict[str, Any]) -> None:
    kind = told.pop("kind")
    if kind == "facts":
        results.kernels[kernel] = told
    elif kind == "cell":
        results.add_cell(kernel, group, told)
    elif kind == "idle":
        results.idle.append({"kernel": kernel, **told})
    elif kind == "profile":
        results.profiles.append({"kernel": kernel, **told})


def measure(kernel: str, group: str, options: Options, results: Results) -> None:
    """Boots a VM, and adds what it finds to the results; a VM that fails is one of their problems,
    and what it found until then is kept."""
    command = _command(kernel, group, options, _files(kernel, options))
    guest = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
    assert guest.stdout is not None
    for line in guest.stdout:
        told = _told(line)
        if told is None:
            sys.stderr.write(line)
            continue
        if told["kind"] != "facts":
            print(_progress(kernel, group, told), file=sys.stderr, flush=True)
        _take(results, kernel, group, told)
    if guest.wait() != 0:
        results.problems.append(f"{kernel}, {group}: the VM ended with {guest.returncode}")
