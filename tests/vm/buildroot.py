# SPDX-License-Identifier: Apache-2.0
"""Debian roots made by mmdebstrap: for the guest's userland and for compiling in another suite."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import apt
import cache
import host

_COMPILER_PACKAGES = {
    "bookworm": ["gcc-12", "make", "libelf1", "pahole"],
    "trixie": ["gcc-14", "make", "libelf1t64", "pahole"],
    "forky": ["gcc", "make"],
}
_EXCLUDED = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"]


def suites_of(codename: str) -> list[str]:
    """A stable suite with its updates and security fixes."""
    return [codename, f"{codename}-updates", f"{codename}-security"]


def bootstrap(codename: str, packages: list[str], folder: Path) -> None:
    """Fills an existing empty folder with a small Debian that has these packages."""
    host.need_root("making a Debian root")
    lists = folder.with_name(f"{folder.name}.list")
    lists.write_text("\n".join(apt.source_lines(suites_of(codename))) + "\n")
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    argv += ["--aptopt=Acquire::Check-Valid-Until false", "--aptopt=Acquire::Retries 3"]
    argv += [f"--include={','.join(packages)}", codename, str(folder), str(lists)]
    try:
        host.run(
            argv,
            f"making a {codename} root",
            "run `vm.py setup`, check the network, or name a mirror in $UBLKD_MIRROR",
            env={"TMPDIR": str(folder.parent)},
        )
    finally:
        lists.unlink()


def compiler(codename: str) -> str:
    """The compiler with which a suite builds its kernels, such as `gcc-12`."""
    return _COMPILER_PACKAGES[codename][0]


def compiler_root(codename: str, more: Sequence[str] = ()) -> Path:
    """A cached root of a suite that can compile kernel modules, and has `more` packages."""
    packages = [*_COMPILER_PACKAGES[codename], *more]

    def build(folder: Path) -> None:
        tree = folder / "root"
        tree.mkdir()
        with host.step(f"making a {codename} root with a compiler (once)"):
            bootstrap(codename, packages, tree)

    name = f"{codename}-{cache.digest_text(*packages)}"
    return cache.obtain("compilers", name, packages, build) / "root"


# $1 is the root, $2 the writable folder, $3 a folder to read, and the rest is the program.
# Empty mount points may stay behind in the root; nothing else of it can change.
_ENTER = """
set -eu
root=$1 writable=$2 readable=$3
shift 3
mkdir -p "$root$writable" "$root$readable"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$writable" "$root$readable"
mount -o remount,bind,ro "$root"
mount --bind "$readable" "$root$readable"
mount -o remount,bind,ro "$root$readable"
mount --bind "$writable" "$root$writable"
cd "$root"
# A copy of the machine's other mounts would keep busy what is unmounted there meanwhile. Where / is
# no mount of its own it has to stay.
if pivot_root . . 2>/dev/null; then umount -l .; fi
exec chroot . env -i PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 "$@"
"""


def run_in_root(
    tree: Path, argv: list[str], writable: Path, readable: Path, what: str, remedy: str
) -> str:
    """Runs a program with a cached root as its `/`, in a mount namespace of its own.

    The root is read-only; `writable` and `readable` are seen at the paths they have outside. All that
    the program started dies with this process.
    """
    host.need_root("entering a Debian root")
    enter = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    enter += ["--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
    return host.run([*enter, tree, writable, readable, *argv], what, remedy)
