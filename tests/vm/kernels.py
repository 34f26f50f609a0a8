# SPDX-License-Identifier: Apache-2.0
"""Stock Debian kernels and their headers, in the cache.

A kernel is known by a short name; what that name means today is asked of the archive at most once a
day, because the packages' names change with every security update.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

import apt
import cache
import host

_RESOLVE_EVERY_SECONDS = 24 * 60 * 60
_META_PACKAGES = ("linux-image-cloud-amd64", "linux-headers-cloud-amd64")
_KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules|headers|kbuild|base)-\S+")
FACTS = "kernel.json"  # Describes a kernel that is not Debian's.
DEBUG_SUFFIX = "-debug"  # What debugkernel.py builds: `6.1-debug`.
_FORMAT = 1  # Counts up when what is made of the packages changes.


@dataclass(frozen=True)
class Source:
    """Where the packages of a kernel come from, and the suite whose root can compile for it."""

    suites: list[str]
    prefer: str | None
    build_suite: str


SOURCES = {
    "6.1": Source(["bookworm", "bookworm-updates", "bookworm-security"], None, "bookworm"),
    "6.12": Source(["bookworm", "bookworm-backports"], "bookworm-backports", "bookworm"),
    "7.x": Source(["trixie", "trixie-backports"], "trixie-backports", "trixie"),
}


@dataclass(frozen=True)
class Kernel:
    """The files of one kernel, all below `tree`; `kdir` is what `make -C` and KDIR= take.

    `memory_mib` is what a guest with it has, unless it is given more or less; it takes `patience`
    times as long as a stock kernel, and is started with `arguments` besides the usual ones.
    """

    name: str
    release: str
    tree: str
    vmlinuz: str
    modules: str
    kdir: str
    build_suite: str
    memory_mib: int = 1536
    patience: int = 1
    arguments: str = ""

    def json(self) -> str:
        """The paths as JSON text."""
        return json.dumps(asdict(self), indent=2)


def _closure(archive: apt.Archive) -> list[apt.Package]:
    """The packages that the meta-packages stand for today."""
    found: dict[str, apt.Package] = {}
    wanted = list(_META_PACKAGES)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        package = archive.show(name)
        found[name] = package
        for clause in package.depends.split(","):
            first = clause.split("|")[0].split()
            if first and _KERNEL_PACKAGE.fullmatch(first[0]):
                wanted.append(first[0])
    return sorted(found.values(), key=lambda package: package.name)


def archive_of(name: str) -> apt.Archive:
    """The archive that a kernel comes from."""
    source = SOURCES[name]
    return apt.Archive(f"kernel-{name}", source.suites, source.prefer)


def resolve(
    name: str,
    what: str,
    choose: Callable[[apt.Archive], list[apt.Package]],
    max_age_seconds: int = _RESOLVE_EVERY_SECONDS,
) -> list[apt.Package]:
    """The packages that `choose` finds in a kernel's archive, asked again after some time.

    `what` names them in file names and messages: kernel, source.
    """
    memory = cache.root() / "kernels" / f"{name}.{what}.json"
    memory.parent.mkdir(parents=True, exist_ok=True)
    with cache.Mutex(f"resolve-{name}"):
        known: list[apt.Package] = []
        try:
            age = time.time() - memory.stat().st_mtime
            known = [apt.Package(**fields) for fields in json.loads(memory.read_text())]
            if 0 <= age < max_age_seconds:
                return known
        except (OSError, ValueError, TypeError):
            pass
        try:
            with host.step(f"asking the archive for the newest {name} {what}"):
                archive = archive_of(name)
                archive.update()
                packages = choose(archive)
        except host.Failure as failure:
            if not known:
                raise
            host.say(f"{failure}; going on with the {what} that is in the cache", level=0)
            return known
        fresh = memory.with_suffix(".new")
        fresh.write_text(json.dumps([asdict(package) for package in packages], indent=1))
        fresh.rename(memory)
        return packages


def _relative_links(tree: Path) -> None:
    """Turns absolute links below an unpacked tree into relative ones that stay inside it."""
    for parent, folders, names in os.walk(tree):
        for name in folders + names:
            path = Path(parent, name)
            if path.is_symlink() and os.readlink(path).startswith("/"):
                target = tree / os.readlink(path).lstrip("/")
                path.unlink()
                path.symlink_to(os.path.relpath(target, path.parent))


def _relocate_headers(tree: Path, final: Path) -> None:
    """Lets the header folders find each other below `final`, where the tree will stay."""
    _relative_links(tree)
    for headers in (tree / "usr/src").glob("linux-headers-*"):
        for path in headers.glob("*"):
            if path.name in ("Makefile", ".kernelvariables") and path.is_file():
                text = path.read_text()
                path.write_text(re.sub(r"(?<![\w./])/usr/(src|lib)/", rf"{final}/usr/\1/", text))


def _unpack_modules(folder: Path) -> None:
    """Stores compressed modules plain: an emulated machine takes long to unpack them."""
    for path in folder.rglob("*.ko.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()


def _find_one(tree: Path, pattern: str, what: str) -> Path:
    found = sorted(tree.glob(pattern))
    if len(found) != 1:
        raise host.Failure(
            f"unpacking a kernel: expected one {what} ({pattern}) and found {len(found)}; "
            "the package layout has changed, teach tests/vm/kernels.py about it"
        )
    return found[0]


def _find_image(tree: Path) -> Path:
    """The kernel image; since 7.x the packages keep it beside the modules."""
    beside = sorted(tree.glob("lib/modules/*/vmlinuz"))
    return beside[0] if beside else _find_one(tree, "boot/vmlinuz-*", "kernel image")


def _build(name: str, packages: list[apt.Package], folder: Path) -> None:
    """Fills a cache folder with a kernel, its modules and its headers."""
    final = cache.root() / "kernels" / name
    archive = archive_of(name)
    debs = folder / "debs"
    debs.mkdir()
    with host.step(f"downloading kernel {name} ({len(packages)} packages)"):
        files = archive.download(packages, debs)
    with host.step(f"unpacking kernel {name}"):
        apt.unpack(files, folder)
        shutil.rmtree(debs)
        if not (folder / "lib").exists():
            (folder / "lib").symlink_to("usr/lib")
        modules = _find_one(folder, "lib/modules/*/kernel", "module folder").parent
        for link in ("build", "source"):
            (modules / link).unlink(missing_ok=True)
        _relocate_headers(folder, final)
        _unpack_modules(modules)
        host.run(
            ["depmod", "-b", folder, modules.name],
            f"listing the modules of kernel {name}",
            "run `vm.py setup`",
        )
    _find_image(folder)
    _find_one(folder, "usr/src/linux-headers-*-cloud-amd64", "header folder")


def _describe(name: str, entry: Path) -> Kernel:
    modules = _find_one(entry, "lib/modules/*/kernel", "module folder").parent
    return Kernel(
        name=name,
        release=modules.name,
        tree=str(entry),
        vmlinuz=str(_find_image(entry)),
        modules=str(modules),
        kdir=str(entry / "usr/src" / f"linux-headers-{modules.name}"),
        build_suite=SOURCES[name].build_suite,
    )


def custom(folder: Path) -> Kernel:
    """A kernel that somebody built: a folder with kernel.json, its paths relative to the folder."""
    path = folder / FACTS
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        for key in ("vmlinuz", "modules", "kdir"):
            fields[key] = str((folder / fields[key]).resolve())
        return Kernel(tree=str(folder), **fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise host.Failure(
            f"reading {path}: {error}; it needs name, release, vmlinuz, modules, kdir, build_suite"
        ) from error


def fetch(name: str) -> Kernel:
    """A kernel ready for use, by its short name or by a folder that holds a kernel.json."""
    if "/" in name and Path(name).is_dir():
        return custom(Path(name).resolve())
    if name.endswith(DEBUG_SUFFIX) and name.removesuffix(DEBUG_SUFFIX) in SOURCES:
        entry = cache.existing("kernels", name)
        if entry is None:
            raise host.Failure(
                f"kernel {name}: it is not built yet; "
                f"run `./run vm-kernel --debug {name.removesuffix(DEBUG_SUFFIX)}`"
            )
        return custom(entry)
    if name not in SOURCES:
        raise host.Failure(
            f"kernel {name}: unknown; use one of {', '.join(SOURCES)}, or a folder with kernel.json"
        )
    packages = resolve(name, "kernel", _closure)
    try:
        return _obtain(name, packages)
    except host.Failure:
        # The version of yesterday may be gone from the archive.
        newest = resolve(name, "kernel", _closure, max_age_seconds=0)
        if newest == packages:
            raise
        return _obtain(name, newest)


def _obtain(name: str, packages: list[apt.Package]) -> Kernel:
    key = {"format": _FORMAT, "packages": {p.name: p.version for p in packages}}
    entry = cache.obtain(
        "kernels", name, key, lambda folder: _build(name, packages, folder), stale_ok=True
    )
    return _describe(name, entry)
