# SPDX-License-Identifier: Apache-2.0
"""One QEMU process: its command line, its channels, and how to make a hung guest talk."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Iterator

import emulator

_PR_SET_PDEATHSIG = 1
_FOLDER_PREFIX = "ublkd-vm-"
_FOLDER_LOCK = "lock"
_CONSOLE_KEYS = "console.keys"
CONSOLE_LOG = "console.log"
CLOCKS_SET = "smp: Bringing up secondary CPUs"  # Linux says so when it has measured its clocks.
_NS_PER_SECOND = 1_000_000_000
_KEY_PAUSE_SECONDS = 1.0
_SPARE_BYTES = 512 * 1024 * 1024
_KERNEL_ARGUMENTS = [
    "console=ttyS0",
    "loglevel=8",
    "log_buf_len=16M",
    "printk.devkmsg=on",
    "printk.time=1",
    "oops=panic",
    "panic=-1",
    "unknown_nmi_panic",
    "sysrq_always_enabled",
    "mitigations=off",
    "cryptomgr.notests",
    "nokaslr",
    "no5lvl",
    "tsc=reliable",
    "no_timer_check",
    "random.trust_cpu=on",
    "rcupdate.rcu_cpu_stall_timeout=60",
    "watchdog_thresh=30",
    "net.ifnames=0",
]


def _remove_leftovers(parent: Path) -> None:
    """Removes the folders of runs that were killed: nobody holds the lock in them any more."""
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        try:
            with (folder / _FOLDER_LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # In use, or just being made.


@contextmanager
def run_folder(needed_bytes: int) -> Iterator[Path]:
    """A temporary folder for a `with` block: in memory when there is room, else on disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > needed_bytes + _SPARE_BYTES
    parent = memory if roomy else Path(tempfile.gettempdir())
    _remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
    try:
        with (folder / _FOLDER_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Fault(Enum):
    """What goes wrong with the emulator on purpose, for testing what follows."""

    FREEZE = "freeze"
    CRASH = "crash"


@dataclass
class Disk:
    """A disk of the guest, found there by its serial number; shared images are never changed."""

    serial: str
    image: Path
    shared: bool


@dataclass
class Spec:
    """What a guest is made of."""

    vmlinuz: Path
    initramfs: Path
    disks: list[Disk]
    folder: Path
    cpus: int = 2
    memory_mib: int = 1536
    patience: int = 1  # How many times longer than a stock kernel this one takes.
    icount: bool = False
    interactive: bool = False
    append: list[str] = field(default_factory=list)
    fault: Fault | None = None


def _disk_arguments(disk: Disk) -> list[str]:
    mode = "snapshot=on" if disk.shared else "discard=unmap"
    drive = f"if=none,id={disk.serial},file={disk.image},format=raw,cache=unsafe,{mode}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial}"]


def _arguments(spec: Spec, channels: dict[str, int]) -> list[str]:
    argv = [*emulator.command(), "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-no-reboot", "-machine", "q35,hpet=off", "-m", str(spec.memory_mib)]
    if spec.icount:
        argv += ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
        argv += ["-smp", "1", "-cpu", "max,-erms,-fsrm"]
    else:
        argv += ["-accel", "tcg,thread=multi", "-smp", str(spec.cpus), "-cpu", "max"]
    argv += ["-kernel", str(spec.vmlinuz), "-initrd", str(spec.initramfs)]
    argv += ["-append", " ".join(_KERNEL_ARGUMENTS + spec.append)]
    for disk in spec.disks:
        argv += _disk_arguments(disk)
    argv += ["-device", "virtio-serial-pci"]
    for name in ("output", "control", "files"):
        argv += ["-chardev", f"socket,id={name},fd={channels[name]}"]
        argv += ["-device", f"virtserialport,chardev={name},name=vm.{name}"]
    argv += ["-chardev", f"socket,id=monitor,fd={channels['monitor']}"]
    argv += ["-mon", "chardev=monitor,mode=control"]
    log = spec.folder / CONSOLE_LOG
    if spec.interactive:
        argv += ["-chardev", f"stdio,id=console,signal=off,logfile={log}"]
    else:
        # Unlike a socket, a file takes what comes however busy the machine is.
        keys = spec.folder / _CONSOLE_KEYS
        argv += ["-chardev", f"file,id=console,path={log},input-path={keys}"]
    return argv + ["-serial", "chardev:console"]


def _prepare_child() -> None:
    """Runs in the child: a QEMU never outlives the harness, and starts undisturbed; see calm()."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        lowest = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        os.sched_setscheduler(0, os.SCHED_RR, lowest)
    except OSError:
        pass  # Not permitted here: it takes its turn, as it does later.


class Machine:
    """A running guest; `channels` are this side's sockets, by name."""

    NAMES = ("output", "control", "files", "monitor")

    def __init__(self, spec: Spec) -> None:
        pairs = {name: socket.socketpair() for name in self.NAMES}
        self.channels = {name: pair[0] for name, pair in pairs.items()}
        theirs = {name: pair[1].fileno() for name, pair in pairs.items()}
        os.mkfifo(spec.folder / _CONSOLE_KEYS)
        self._keys = os.open(spec.folder / _CONSOLE_KEYS, os.O_RDWR)
        self._errors = spec.folder / "qemu.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                _arguments(spec, theirs),
                stdin=None if spec.interactive else subprocess.DEVNULL,
                stdout=None if spec.interactive else errors,
                stderr=errors,
                pass_fds=list(theirs.values()),
                preexec_fn=_prepare_child,
                env={"PATH": "/usr/bin:/bin", "TMPDIR": str(spec.folder)},
            )
        for pair in pairs.values():
            pair[1].close()
        self._waited_ns: dict[str, int] = {}
        self._command("qmp_capabilities")
        if spec.fault is Fault.FREEZE:
            self._command("stop")
        elif spec.fault is Fault.CRASH:
            self._process.send_signal(signal.SIGABRT)

    def _command(self, name: str, **arguments: object) -> None:
        order = {"execute": name, "arguments": arguments}
        try:
            self.channels["monitor"].sendall(json.dumps(order).encode() + b"\n")
        except OSError:
            pass  # QEMU is gone, which the caller sees anyway.

    def calm(self) -> None:
        """Lets the emulator take turns with all other processes, once the guest's clocks are set.

        At its start the kernel measures the rates of its clocks against each other. When the
        emulator has to wait in between, they come out wrong by up to some hundred times: the time
        in the guest then races, which looks like stalls, or all but stands still.
        """
        for thread in Path(f"/proc/{self._process.pid}/task").glob("*"):
            try:
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
            except OSError:
                pass  # The thread has ended.

    def waited_seconds(self) -> float:
        """How long QEMU waited for a processor since the last call: the thread that waited most."""
        before = self._waited_ns
        self._waited_ns = {}
        for file in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            try:
                self._waited_ns[file.parent.name] = int(file.read_text().split()[1])
            except (OSError, IndexError):
                continue  # The thread has ended.
        gains = [waited - before.get(name, 0) for name, waited in self._waited_ns.items()]
        return max(gains, default=0) / _NS_PER_SECOND

    def ended(self) -> bool:
        """Whether QEMU has ended."""
        return self._process.poll() is not None

    def crashed(self) -> bool:
        """Whether QEMU has ended by a signal, as at a failed assertion."""
        status = self._process.poll()
        return status is not None and status < 0

    def tell_guest(self, line: str) -> None:
        """Sends a line to the guest's process 1."""
        try:
            self.channels["control"].sendall(line.encode() + b"\n")
        except OSError:
            pass

    def magic_key(self, key: str) -> None:
        """Presses the magic SysRq key on the console, which needs no user space."""
        # The two go different ways, and the kernel wants the key within 5 s after the break.
        self._command("chardev-send-break", id="console")
        time.sleep(_KEY_PAUSE_SECONDS)
        os.write(self._keys, key.encode())
        time.sleep(_KEY_PAUSE_SECONDS)

    def interrupt(self) -> None:
        """Sends an NMI, at which the kernel tells where it is and panics."""
        self._command("inject-nmi")

    def kill(self) -> None:
        """Ends QEMU at once."""
        self._process.kill()
        self._process.wait()
        os.close(self._keys)

    def errors(self) -> str:
        """What QEMU itself complained about."""
        return self._errors.read_text(errors="replace").strip()
