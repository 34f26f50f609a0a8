# SPDX-License-Identifier: Apache-2.0
"""Installs what the harness needs on this machine."""

from __future__ import annotations

import apt
import buildroot
import emulator
import host

# Program -> package. A newer kernel's compiler lives in a root of its own, not on the machine.
_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "make": "make",
    "unshare": "util-linux",
    "tar": "tar",
}
_PER_SUITE = {
    "bookworm": {"gcc-12": "gcc-12"},
    "trixie": {"gcc-14": "gcc-14"},
}


def _missing_packages(codename: str) -> list[str]:
    wanted = {**_PROGRAMS, **_PER_SUITE.get(codename, {})}
    return sorted({name for program, name in wanted.items() if not host.find_program(program)})


def setup() -> None:
    """Installs the missing packages and QEMU; does nothing, quickly, when all are there."""
    codename = host.os_codename()
    missing = _missing_packages(codename)
    if missing:
        host.need_root("installing packages")
        archive = apt.Archive(f"setup-{codename}", buildroot.suites_of(codename))
        with host.step(f"reading the package lists of {codename}"):
            archive.update()
        with host.step(f"installing {' '.join(missing)}"):
            archive.install(missing)
    emulator.command()
    host.say("everything is installed")
