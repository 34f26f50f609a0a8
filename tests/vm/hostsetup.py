# SPDX-License-Identifier: Apache-2.0
"""Installs what the harness needs on this machine."""

from __future__ import annotations

import apt
import buildroot
import host
import machine

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
_QEMU_PACKAGE = "qemu-system-x86"


def _missing_packages(codename: str) -> list[str]:
    wanted = {**_PROGRAMS, **_PER_SUITE.get(codename, {})}
    return sorted({name for program, name in wanted.items() if not host.find_program(program)})


def setup() -> None:
    """Installs the missing packages; does nothing, quickly, when all are there."""
    codename = host.os_codename()
    missing = _missing_packages(codename)
    old_qemu = machine.qemu_major() < machine.MINIMUM_QEMU
    if not missing and not old_qemu:
        host.say("everything is installed")
        return
    host.need_root("installing packages")
    suites = buildroot.suites_of(codename)
    archive = apt.Archive(f"setup-{codename}", suites)
    with host.step(f"reading the package lists of {codename}"):
        archive.update()
    if old_qemu and _offered_major(archive) >= machine.MINIMUM_QEMU:
        missing.append(_QEMU_PACKAGE)
        old_qemu = False
    if missing:
        with host.step(f"installing {' '.join(missing)}"):
            archive.install(missing)
    if old_qemu:
        backports = f"{codename}-backports"
        with host.step(f"installing {_QEMU_PACKAGE} from {backports}"):
            newer = apt.Archive(f"setup-{backports}", [*suites, backports], backports)
            newer.update()
            newer.install([_QEMU_PACKAGE])
    if machine.qemu_major() < machine.MINIMUM_QEMU:
        raise host.Failure(
            f"installing QEMU: {codename} and its backports offer none of version "
            f"{machine.MINIMUM_QEMU} or newer; use Debian bookworm or trixie"
        )


def _offered_major(archive: apt.Archive) -> int:
    """The major version of the QEMU package of an archive: `1:10.0.2+ds-2` gives 10."""
    version = archive.show(_QEMU_PACKAGE).version
    return int(version.partition(":")[2].partition(".")[0] or 0)
