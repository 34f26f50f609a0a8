# SPDX-License-Identifier: Apache-2.0
"""Builds kernels that watch what a driver does: KASAN, lockdep, kmemleak and the like.

Source and compiler are Debian's; the configuration is debug/kernel.config and nothing else, so that
a build takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import apt
import buildroot
import cache
import host
import kernels
import sources

CONFIG = Path(__file__).resolve().parent / "debug" / "kernel.config"
KERNELS = ("6.1", "7.x")
_FORMAT = 1  # Counts up when what is made of the source changes.
_BUILD_PACKAGES = ["bc", "bison", "flex", "kmod", "libelf-dev"]
# The shadow of KASAN takes an eighth, and freed memory is held back for long.
_MEMORY_MIB = 2048
_PATIENCE = 5
# Since 6.18 caches keep stale pointers to free objects, which kmemleak takes for references; those
# with checks do not, but show addresses unless told otherwise. Tests mount disks that they hold open.
_ARGUMENTS = {"7.x": "slab_debug=F hash_pointers=always bdev_allow_write_mounted=1"}
_IMAGE = "arch/x86/boot/bzImage"
_RELEASE = "include/config/kernel.release"


@dataclass(frozen=True)
class _Tree:
    """A source tree and the Debian root in which it is compiled."""

    path: Path
    root: Path
    writable: Path
    what: str

    def make(self, *words: str) -> None:
        """Runs make in the tree."""
        buildroot.run_in_root(
            self.root,
            ["make", "-s", "-C", str(self.path), *words],
            self.writable,
            self.writable,
            self.what,
            f"mend {CONFIG.name}, or the packages in {Path(__file__).name}, by the messages above",
        )


def _wanted_lines() -> list[str]:
    """The options that are asked for, without the comments between them."""
    lines = CONFIG.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def lost_lines(wanted: list[str], taken: str, tree: Path) -> list[str]:
    """The lines of a wanted configuration that the tree has options for and did not take."""
    known: set[str] = set()
    for path in tree.rglob("Kconfig*"):
        text = path.read_text(errors="replace")
        known.update(re.findall(r"^\s*(?:menu)?config\s+(\w+)", text, re.MULTILINE))
    lines = set(taken.splitlines())
    lost = []
    for line in wanted:
        found = re.fullmatch(r"CONFIG_(\w+)=(.+)", line)
        if not found or found.group(1) not in known:
            continue
        if found.group(2) == "n":
            kept = not any(other.startswith(f"CONFIG_{found.group(1)}=") for other in lines)
        else:
            kept = line in lines
        if not kept:
            lost.append(line)
    return lost


def _configure(tree: _Tree, compiler: str) -> None:
    # Debian's Makefile reads this file, here and when a module is built.
    (tree.path / ".kernelvariables").write_text(f"CC = {compiler}\nHOSTCC = {compiler}\n")
    shutil.copy(CONFIG, tree.path / "wanted.config")
    tree.make("allnoconfig", "KCONFIG_ALLCONFIG=wanted.config")
    lost = lost_lines(_wanted_lines(), (tree.path / ".config").read_text(), tree.path)
    if lost:
        raise host.Failure(
            f"configuring {tree.what}: it did not take {', '.join(lost)}; "
            f"add what they depend on to {CONFIG}"
        )


def _keep_headers(tree: Path, kept: Path) -> None:
    """Copies what is needed to build a module."""
    objects = shutil.ignore_patterns("*.o", "*.a", ".*.cmd", "kconfig", "dtc", "gdb")
    for folder in ("include", "scripts"):
        shutil.copytree(tree / folder, kept / folder, symlinks=True, ignore=objects)
    x86 = Path("arch/x86")
    for path in [p for p in (tree / x86).rglob("include") if p.is_dir()]:
        shutil.copytree(path, kept / path.relative_to(tree), symlinks=True, ignore=objects)
    single = [tree / name for name in (".config", ".kernelvariables", "Makefile", "Module.symvers")]
    single += (tree / x86).glob("Makefile*")
    single += [path for path in [tree / "tools/objtool/objtool"] if path.exists()]
    for path in single:
        target = kept / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def _compile(tree: _Tree, suite: str, modules_to: Path) -> str:
    """Leaves the kernel in the tree and its modules in a folder; returns the release."""
    _configure(tree, buildroot.compiler(suite))
    with host.step(f"compiling {tree.what} (a quarter of an hour and more, once)"):
        tree.make(f"-j{os.cpu_count() or 1}", "bzImage", "modules")
        tree.make("modules_install", f"INSTALL_MOD_PATH={modules_to}")
    return (tree.path / _RELEASE).read_text().strip()


def _build(kernel: str, package: apt.Package, folder: Path) -> None:
    suite = kernels.SOURCES[kernel].build_suite
    root = buildroot.compiler_root(suite, _BUILD_PACKAGES)
    source = sources.unpack(kernel, package, folder)
    tree = _Tree(source, root, folder, f"debug kernel {kernel}")
    release = _compile(tree, suite, folder)
    modules = folder / "lib/modules" / release
    for link in ("build", "source"):
        (modules / link).unlink(missing_ok=True)
    shutil.copy2(source / _IMAGE, folder / "vmlinuz")
    shutil.copy2(source / "System.map", folder / "System.map")
    _keep_headers(source, folder / "headers")
    shutil.rmtree(source)
    facts = {
        "name": kernel + kernels.DEBUG_SUFFIX,
        "release": release,
        "vmlinuz": "vmlinuz",
        "modules": str(modules.relative_to(folder)),
        "kdir": "headers",
        "build_suite": suite,
        "memory_mib": _MEMORY_MIB,
        "patience": _PATIENCE,
        "arguments": _ARGUMENTS.get(kernel, ""),
    }
    (folder / kernels.FACTS).write_text(json.dumps(facts, indent=1))


def obtain(kernel: str) -> kernels.Kernel:
    """The debug kernel for a stock kernel's name; compiled when the source or CONFIG changed."""
    package = sources.newest(kernel)
    key = {
        "format": _FORMAT,
        "source": f"{package.name} {package.version}",
        "config": _wanted_lines(),
    }
    name = kernel + kernels.DEBUG_SUFFIX
    entry = cache.obtain("kernels", name, key, lambda folder: _build(kernel, package, folder))
    return kernels.custom(entry)
