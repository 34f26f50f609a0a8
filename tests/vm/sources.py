# SPDX-License-Identifier: Apache-2.0
"""The sources of Debian's kernels, as its linux-source packages have them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Sequence

import apt
import host
import kernels


def newest(kernel: str) -> apt.Package:
    """The package with the source of a kernel, as the archive had it today."""

    def choose(archive: apt.Archive) -> list[apt.Package]:
        # The package `linux-source` is empty and names today's `linux-source-7.3`.
        named = archive.show("linux-source").depends.split()[0]
        return [archive.show(named)]

    return kernels.resolve(kernel, "source", choose)[0]


def unpack(kernel: str, package: apt.Package, folder: Path, members: Sequence[str] = ()) -> Path:
    """Unpacks a source package into a folder; returns the source tree.

    With `members` only these files and folders of it, which takes a moment instead of a minute.
    """
    debs = folder / "debs"
    debs.mkdir()
    with host.step(f"getting {package.name} {package.version}"):
        files = kernels.archive_of(kernel).download([package], debs)
        apt.unpack(files, debs)
        archive = debs / "usr/src" / f"{package.name}.tar.xz"
        wanted = [f"{package.name}/{member}" for member in members]
        host.run(
            ["tar", "--xz", "-xf", archive, "-C", folder, *wanted],
            f"unpacking {archive.name}",
            "free some disk space; if a file is missing in it, teach tests/vm about the new layout",
        )
        shutil.rmtree(debs)
    return folder / package.name
