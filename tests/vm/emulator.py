# SPDX-License-Identifier: Apache-2.0
"""QEMU: the one of Debian trixie in a root of its own, so that every machine runs the same one.

bookworm's backports stop at 10.0.2, in which a processor that wakes up while another one changes
the memory map reads a map that is freed already (QEMU's commit 2865bf1c5795 mends it). Linux
changes the map a hundred times while it looks for PCI devices, so some boots in a hundred crash.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import buildroot
import cache
import host

NAME = "qemu-system-x86_64"
_SUITE = "trixie"
_PACKAGES = ["qemu-system-x86"]
_OLDEST = (10, 0, 4)


def _command(tree: Path) -> list[str]:
    # Its own loader and libraries, since those of this machine may be older.
    argv = [str(tree / "usr/lib64/ld-linux-x86-64.so.2"), "--argv0", NAME]
    argv += ["--library-path", str(tree / "usr/lib/x86_64-linux-gnu"), str(tree / "usr/bin" / NAME)]
    for folder in ("qemu", "seabios"):
        argv += ["-L", str(tree / "usr/share" / folder)]
    return argv


def _check_version(tree: Path) -> None:
    remedy = f"name a mirror in $UBLKD_MIRROR that has today's {_SUITE}"
    text = host.run([*_command(tree), "--version"], "asking QEMU's version", remedy)
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    if found is None or tuple(map(int, found.groups())) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise host.Failure(f"getting QEMU: it is older than {oldest}, which crashes; {remedy}")


def command() -> list[str]:
    """The first words of QEMU's command line; the first time, its root is made."""

    def build(folder: Path) -> None:
        tree = folder / "root"
        tree.mkdir()
        with host.step(f"making a {_SUITE} root with QEMU (once)"):
            buildroot.bootstrap(_SUITE, _PACKAGES, tree)
            shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
            _check_version(tree)

    name = f"{_SUITE}-{cache.digest_text(*_PACKAGES)}"
    return _command(cache.obtain("emulators", name, [*_PACKAGES, *_OLDEST], build) / "root")
