# SPDX-License-Identifier: Apache-2.0
"""Makes in the VM the block devices that are measured, and takes them away again."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from typing import Callable, Iterator

import plan

START_TIMEOUT_S = 120
FOLDER = "/opt/bench"
SERVER = FOLDER + "/serve_device"
PEER = FOLDER + "/peer"
RAMDISK_FOLDER = "/ramdisk"
FILE_PATH = RAMDISK_FOLDER + "/disk"
_MODULE = "ublk_drv"
_CHUNK_BYTES = 1 << 20
# kublk goes on without what the driver does not offer, and says which feature bits are in force.
_KUBLK_NEEDS = {"--auto_zc": 1 << 11, "-b": 1 << 15}


class Unavailable(Exception):
    """The subject can't be made here; the text says why."""


def load_driver(driver: str) -> None:
    """Puts a driver, plan.OURS or plan.STOCK, in the place of the one that is loaded."""
    if os.path.exists(f"/sys/module/{_MODULE}"):
        subprocess.run(["rmmod", _MODULE], check=True)
    if driver == plan.STOCK:
        subprocess.run(["modprobe", _MODULE], check=True)
    else:
        subprocess.run(["insmod", f"{FOLDER}/module/{_MODULE}.ko"], check=True)


def fill_file() -> None:
    """Makes the file that loop devices and file targets serve."""
    with open(FILE_PATH, "wb") as file:
        for _ in range(plan.FILE_MIB):
            file.write(b"\xa5" * _CHUNK_BYTES)
        os.fsync(file.fileno())
        # What is cached would be dropped page by page under the first subject's writes.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _file_words(words: tuple[str, ...]) -> list[str]:
    if words[1] in ("null", "memory"):
        return [*words, "--size", str(plan.FILE_MIB << 20)]
    return [*words, "--path", FILE_PATH]


@contextlib.contextmanager
def serve(words: tuple[str, ...], queues: int) -> Iterator[str]:
    """Our engine, by serve_device."""
    command = [SERVER, "--queues", str(queues), *_file_words(words)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    path = process.stdout.readline().strip() if ready else ""
    if not path:
        process.kill()
        raise Unavailable(process.stderr.read().strip().splitlines()[0] or "it did not come up")
    try:
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)} did not end well: {process.stderr.read()}")


def _kublk(*words: str) -> str:
    # With the loader and the libraries of the suite it was built in, which is not the guest's.
    loader = [f"{PEER}/lib/ld-linux-x86-64.so.2", "--library-path", f"{PEER}/lib"]
    done = subprocess.run(
        [*loader, f"{PEER}/kublk", *words], check=False, capture_output=True, text=True,
        timeout=START_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise Unavailable((done.stderr or done.stdout or "it did not come up").strip())
    return done.stdout


@contextlib.contextmanager
def kublk(words: tuple[str, ...], queues: int) -> Iterator[str]:
    """The server of the kernel's own tests."""
    files = [] if words[1] == "null" else [FILE_PATH]
    said = _kublk("add", "-q", str(queues), "-d", "128", *words, *files)
    number = re.search(r"dev id (\d+)", said)
    flags = re.search(r"flags (0x[0-9a-f]+)", said)
    if number is None or flags is None:
        raise Unavailable(said.strip() or "kublk named no device")
    missing = [word for word in words if _KUBLK_NEEDS.get(word, 0) & ~int(flags.group(1), 16)]
    try:
        if missing:
            raise Unavailable(f"the driver does not offer what {' '.join(missing)} needs")
        yield f"/dev/ublkb{number.group(1)}"
    finally:
        _kublk("del", "-n", number.group(1))


@contextlib.contextmanager
def kernel_loop(_words: tuple[str, ...], _queues: int) -> Iterator[str]:
    """The kernel's loop device on the same file."""
    command = ["losetup", "--find", "--show", "--direct-io=on", FILE_PATH]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def ramdisk(_words: tuple[str, ...], _queues: int) -> Iterator[str]:
    """The RAM disk below the file, by itself: what no server can go below. Its contents are lost."""
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", RAMDISK_FOLDER], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["umount", RAMDISK_FOLDER], check=True)
    try:
        yield device
    finally:
        # As the VM had made it: without access times, and nothing to be initialised later.
        make = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"]
        make += ["-E", "lazy_itable_init=1,nodiscard", device]
        subprocess.run(make, check=True)
        options = "noatime,noinit_itable"
        subprocess.run(["mount", "-t", "ext4", "-o", options, device, RAMDISK_FOLDER], check=True)
        fill_file()


_MAKERS: dict[str, Callable[..., contextlib.AbstractContextManager[str]]] = {
    "serve": serve,
    "kublk": kublk,
    "kernel_loop": kernel_loop,
    "ramdisk": ramdisk,
}


def make(name: str, queues: int) -> contextlib.AbstractContextManager[str]:
    """The path of the device, for a `with` block; raises Unavailable when it can't be made."""
    subject = plan.SUBJECTS[name]
    return _MAKERS[subject.maker](subject.words, queues)
