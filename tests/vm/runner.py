# SPDX-License-Identifier: Apache-2.0
"""The `run` command: prepares a guest, runs a program in it, and judges the outcome."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import host
import images
import kernels
import machine
import session
import verdict

EXIT_KERNEL = 125
EXIT_TIMEOUT = 124
EXIT_HARNESS = 126
_CONSOLE_TAIL_LINES = 25
_MOST_THREAD_LINES = 60
_PROGRAM_TAIL_LINES = 5
_MIB = 1024 * 1024
_KIB_PER_MIB = 1024
_MOST_BOOTS = 3
_FAULTS = "UBLKD_VM_FAULTS"
_PASSED_ON = ("GTEST_FILTER",)  # Variables of this process that the guest's program gets as well.


@dataclass
class Order:
    """What to run; sizes are MiB."""

    kernel: str
    words: list[str]
    root: Path | None = None  # The root disk's image, if it is not the harness' own userland.
    payload: Path | None = None
    adds: list[tuple[Path, str]] = field(default_factory=list)
    out: Path | None = None
    cpus: int = 2
    memory_mib: int | None = None  # None takes what the kernel needs.
    scratch_mib: int = 0
    ramdisk_mib: int = 0
    limit_seconds: float = 600.0
    silence_seconds: float = session.SILENCE_SECONDS
    icount: bool = False
    interactive: bool = False
    append: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise host.Failure(f"packing {source}: there is no such file or folder; check the path")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _payload_disk(order: Order, folder: Path) -> machine.Disk | None:
    """Packs the payload and the additional files into one small disk."""
    if order.payload is None and not order.adds:
        return None
    tree = folder / "pack"
    tree.mkdir()
    if order.payload is not None:
        _copy(order.payload, tree / "payload")
    for number, (source, _) in enumerate(order.adds):
        _copy(source, tree / "add" / str(number))
    image = folder / "payload.ext4"
    images.make_ext4(tree, image, images.tree_mib(tree), "payload", "^has_journal,^resize_inode")
    shutil.rmtree(tree)
    return machine.Disk("payload", image, shared=True)


def _scratch_disk(order: Order, folder: Path) -> machine.Disk | None:
    """An empty sparse disk, in memory when the machine has enough of it."""
    if not order.scratch_mib:
        return None
    empty = folder / "empty"
    empty.mkdir()
    image = folder / "scratch.ext4"
    images.make_ext4(empty, image, order.scratch_mib, "scratch", "^resize_inode")
    return machine.Disk("scratch", image, shared=False)


def _orders_for_guest(order: Order) -> dict[str, str]:
    settings = []
    if order.payload is not None or order.adds:
        settings.append("PAYLOAD=1")
    if order.scratch_mib:
        settings.append("SCRATCH=1")
    if order.ramdisk_mib:
        settings.append(f"RAMDISK_KIB={order.ramdisk_mib * _KIB_PER_MIB}")
    if order.interactive:
        settings.append("INTERACTIVE=1")
    for name in _PASSED_ON:
        if name in os.environ:
            settings.append(f"export {name}={shlex.quote(os.environ[name])}")
    return {
        "settings": "".join(f"{line}\n" for line in settings),
        "command": "".join(f"{word}\0" for word in order.words),
        "adds": "".join(f"{target}\0" for _, target in order.adds),
    }


def _fault(boot: int) -> machine.Fault | None:
    """What $UBLKD_VM_FAULTS, words such as `freeze crash`, wants to go wrong at a boot (from 0)."""
    words = os.environ.get(_FAULTS, "").split()
    try:
        return machine.Fault(words[boot]) if boot < len(words) else None
    except ValueError as error:
        known = ", ".join(fault.value for fault in machine.Fault)
        raise host.Failure(f"reading ${_FAULTS}: {error}; it takes {known}") from error


def _prepare(
    order: Order, kernel: kernels.Kernel, memory_mib: int, folder: Path, boot: int
) -> machine.Spec:
    disks = [
        machine.Disk("root", order.root or images.userland(), shared=True),
        machine.Disk("modules", images.modules_disk(kernel), shared=True),
    ]
    for disk in (_payload_disk(order, folder), _scratch_disk(order, folder)):
        if disk is not None:
            disks.append(disk)
    initramfs = folder / "initramfs.cpio"
    images.initramfs(kernel, _orders_for_guest(order), initramfs)
    return machine.Spec(
        vmlinuz=Path(kernel.vmlinuz),
        initramfs=initramfs,
        disks=disks,
        folder=folder,
        cpus=order.cpus,
        memory_mib=memory_mib,
        patience=kernel.patience,
        icount=order.icount,
        interactive=order.interactive,
        append=kernel.arguments.split() + order.append,
        fault=_fault(boot),
    )


def _unpack_files(folder: Path, out: Path) -> None:
    """Unpacks the files of the guest's /out; a cut-off archive gives what there is of it.

    Links and device nodes are left out, so that nothing is written outside the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(folder / "files.tar") as archive:
            for member in archive:
                path = out / member.name
                data = archive.extractfile(member) if member.isreg() else None
                if data is None or ".." in path.parts or Path(member.name).is_absolute():
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(data, file)
    except (tarfile.TarError, OSError, EOFError) as error:
        host.say(f"reading the guest's files: {error}", level=2)


def _allowed(order: Order) -> list[re.Pattern[str]]:
    return verdict.read_allow_file() + [verdict.compile_pattern(text) for text in order.allow]


def _kernel_lines(report: session.Report, out: Path, order: Order) -> list[str]:
    """The lines with which the kernel failed the run."""
    allowed = _allowed(order)
    kmsg = out / "kmsg.txt"
    lines: list[str] = []
    last = -1.0
    if kmsg.exists():
        messages = verdict.read_kmsg(kmsg)
        lines = verdict.judge(messages, allowed)
        last = messages[-1].seconds if messages else last
    later = [m for m in verdict.read_console(report.console) if m.seconds > last]
    lines += verdict.judge(later, allowed)
    leaks = out / "kmemleak.txt"
    if leaks.exists() and leaks.stat().st_size:
        lines += [f"> {line}" for line in leaks.read_text(errors="replace").splitlines()[:40]]
    return lines


def _complain(text: str, lines: list[str] | None = None) -> None:
    host.say(f"FAILED: {text}", level=0)
    for line in lines or []:
        host.say(f"  {line}", level=0)


def _last_words(report: session.Report) -> list[str]:
    """What the program did when it hung, below all else that is said about that."""
    lines = report.output_end.decode(errors="replace").splitlines()
    return ["the last lines of the program:", *lines[-_PROGRAM_TAIL_LINES:]]


def _conclude(order: Order, report: session.Report, out: Path) -> int:
    """Tells what went wrong, and gives the exit status of the command."""
    tail = (report.console + report.console_after).splitlines()[-_CONSOLE_TAIL_LINES:]
    bad = _kernel_lines(report, out, order)
    if bad:
        _complain("the kernel complained; mend the cause, or allow the message with --allow", bad)
    for text in report.stuck:
        _complain(f"process {text} can't be killed at the end; find out what it waits for")
    threads = out / "threads.txt"
    if threads.exists():
        lines = threads.read_text(errors="replace").splitlines()
        _complain("these threads were left", lines[:_MOST_THREAD_LINES])
    if report.broken:
        _complain(f"{report.broken[0]} in the guest; see console.log", tail)
        return EXIT_HARNESS
    if report.missing_program:
        _complain(
            f"{order.words[0]}: no such program in the guest; the payload is at /opt/ublkd, "
            "other packages go into tests/vm/guest/packages.txt"
        )
        return 127
    if report.frozen:
        _complain("the guest did not come up, and nothing is heard of it; see its last lines", tail)
        return EXIT_HARNESS
    if report.timed_out:
        _complain(
            f"the program took longer than its time limit of {order.limit_seconds:.0f} s; look at "
            "the threads and the last lines of console and program, or raise --timeout if it only "
            "is slow",
            tail + _last_words(report),
        )
        return EXIT_TIMEOUT
    if report.status is None or not report.files_complete:
        when = "before the program started" if report.started_after is None else "while it ran"
        _complain(f"the guest ended {when}; {report.qemu_errors or 'see its last lines'}", tail)
        return EXIT_HARNESS if report.started_after is None else EXIT_KERNEL
    if report.status:
        host.say(f"the program ended with status {report.status}", level=1)
        return report.status
    return EXIT_KERNEL if bad or report.stuck else 0


def _emulator_failure(order: Order, report: session.Report) -> str | None:
    """Why the emulator did not get the guest to its program; None when it did, or is not to blame.

    Nothing of ours runs before the program, so a stock kernel gets there. If it complained of
    anything but a standstill, that is for people to see.
    """
    if report.started_after is not None or not (report.crashed or report.frozen):
        return None
    allowed = _allowed(order)
    messages = verdict.read_console(report.console)
    if any(verdict.is_bad(m, allowed) and not verdict.is_standstill(m) for m in messages):
        return None
    if report.crashed:
        return f"QEMU crashed ({report.qemu_errors or 'without a word'})"
    return "the guest froze"


def _boot(order: Order, boot: int) -> int | None:
    """One boot; the command's exit status, or None when the next boot may go better."""
    last = boot + 1 == _MOST_BOOTS
    kernel = kernels.fetch(order.kernel)
    memory_mib = (order.memory_mib or kernel.memory_mib) + order.ramdisk_mib
    with machine.run_folder((order.scratch_mib + memory_mib) * _MIB) as folder:
        spec = _prepare(order, kernel, memory_mib, folder, boot)
        host.say(f"booting {order.kernel}")
        limits = order.limit_seconds, order.silence_seconds
        report = session.Session(spec, *limits, rescue=last).follow()
        failure = _emulator_failure(order, report)
        if failure is None or last:
            return _collect(order, report, folder)
        host.say(f"{failure} before the program started, so it is booted again", level=0)
        _keep_console(order, report, boot)
        return None


def run(order: Order) -> int:
    """Runs an order and returns the command's exit status."""
    if order.out is not None:
        for old in order.out.glob("console.boot*.log"):
            old.unlink()
    for boot in range(_MOST_BOOTS):
        status = _boot(order, boot)
        if status is not None:
            return status
    raise AssertionError("the last boot has a status")


def _keep_console(order: Order, report: session.Report, boot: int) -> None:
    """Keeps what the console said at a boot that is tried again."""
    if order.out is not None:
        order.out.mkdir(parents=True, exist_ok=True)
        (order.out / f"console.boot{boot + 1}.log").write_text(report.console)


def _collect(order: Order, report: session.Report, folder: Path) -> int:
    """Brings the guest's files and logs to where they are wanted, and concludes."""
    out = order.out or folder / "out"
    for name in ("kmsg.txt", "kmemleak.txt", "console.log", "threads.txt"):
        (out / name).unlink(missing_ok=True)
    _unpack_files(folder, out)
    (out / "console.log").write_text(report.console + report.console_after)
    status = _conclude(order, report, out)
    if report.started_after is not None:
        host.say(
            f"ended; the program started {report.started_after:.1f} s after power on, "
            f"{report.waited_seconds:.1f} s of it without a processor"
        )
    return status
