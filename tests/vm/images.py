# SPDX-License-Identifier: Apache-2.0
"""The disks and the initramfs that a guest boots from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Sequence

import apt
import buildroot
import cache
import cpio
import host
import kernels

GUEST = Path(__file__).resolve().parent / "guest"
PACKAGES = GUEST / "packages.txt"
_MIB = 1024 * 1024
_ROOM_MIB = 1024  # Free space on the root disk; a sparse file, so it costs nothing.
_FORMAT = 3  # Counts up when what is made of the packages changes.
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
_APPLETS = ("sh", "mount", "umount", "insmod", "mkdir", "ln", "cp", "cat", "sleep", "switch_root")
_EXT4_READ_ONLY = "^has_journal,^resize_inode"


def _package_list(
    paths: Sequence[Path], codename: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """The packages for a suite, and the single files to take: (path, package)."""
    packages: list[str] = []
    files: list[tuple[str, str]] = []
    for raw in "\n".join(path.read_text() for path in paths).splitlines():
        line = raw.split("#")[0].strip()
        suite, colon, rest = line.partition(": ")
        if colon:
            line = rest.strip() if suite == codename else ""
        single = re.fullmatch(r"only (\S+) from (\S+)", line)
        if single:
            files.append((single.group(1), single.group(2)))
        elif line:
            packages.append(line)
    return packages, files


def make_ext4(source: Path, image: Path, size_mib: int, label: str, features: str) -> None:
    """Makes an ext4 image file with the contents of a folder."""
    options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label, "-O", features]
    options += ["-E", "root_owner=0:0,lazy_itable_init=1,nodiscard", "-d", source]
    host.run(
        [host.find_program("mke2fs") or "mke2fs", *options, image, f"{size_mib}M"],
        f"making the {label} disk",
        "free some disk space, or run `vm.py setup`",
    )


def tree_mib(folder: Path) -> int:
    """The size of an ext4 image that can hold a folder."""
    size_bytes = files = 0
    for path in folder.rglob("*"):
        files += 1
        if path.is_file() and not path.is_symlink():
            size_bytes += -(-path.lstat().st_size // 4096) * 4096
    return 16 + (size_bytes + files * 1024) * 9 // 8 // _MIB


def _take_files(codename: str, files: list[tuple[str, str]], tree: Path, scratch: Path) -> None:
    """Copies single files out of packages into a root."""
    if not files:
        return
    archive = apt.Archive(f"single-{codename}", buildroot.suites_of(codename))
    archive.update()
    scratch.mkdir()
    for path, name in files:
        apt.unpack(archive.download([archive.show(name)], scratch), scratch / "tree")
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(scratch / "tree" / path, target)
    shutil.rmtree(scratch)


def userland(listed: Sequence[Path] = (PACKAGES,), suite: str | None = None) -> Path:
    """A root disk's image: a suite (this machine's) with the packages that files list."""
    codename = suite or host.os_codename()
    packages, files = _package_list(listed, codename)

    def build(folder: Path) -> None:
        tree = folder / "tree"
        tree.mkdir()
        with host.step(f"making a {codename} userland (once, {len(packages)} packages)"):
            buildroot.bootstrap(codename, packages, tree)
            _take_files(codename, files, tree, folder / "single")
            for name in ("opt/ublkd", "scratch", "ramdisk", "out"):
                (tree / name).mkdir(parents=True)
            (tree / "etc/hostname").write_text("guest\n")
            (tree / "etc/hosts").write_text("127.0.0.1 localhost guest\n::1 localhost\n")
            (tree / "etc/fstab").write_text("")
            shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
            size = tree_mib(tree) + _ROOM_MIB
            make_ext4(tree, folder / "root.ext4", size, "root", _EXT4_READ_ONLY)
            shutil.rmtree(tree)

    key = {"format": _FORMAT, "suite": codename, "packages": packages, "files": files}
    name = f"{codename}-{cache.digest_text(repr(key))}"
    return cache.obtain("userland", name, repr(key), build) / "root.ext4"


def modules_disk(kernel: kernels.Kernel) -> Path:
    """The image that is mounted at /lib/modules."""
    source = Path(kernel.modules)

    def build(folder: Path) -> None:
        with host.step(f"making the module disk of {kernel.release}"):
            tree = folder / "tree"
            ignore = shutil.ignore_patterns("vmlinuz", "System.map")
            shutil.copytree(source, tree / kernel.release, symlinks=True, ignore=ignore)
            size = tree_mib(tree) + 64
            make_ext4(tree, folder / "modules.ext4", size, "modules", _EXT4_READ_ONLY)
            shutil.rmtree(tree)

    key = [_FORMAT, kernel.release, cache.digest_tree(source, contents=False)]
    return cache.obtain("modules", f"{kernel.name}-{kernel.release}", key, build) / "modules.ext4"


def _busybox() -> Path:
    """A busybox that needs no libraries, for the few steps before the root disk is mounted."""
    codename = host.os_codename()

    def build(folder: Path) -> None:
        archive = apt.Archive(f"single-{codename}", buildroot.suites_of(codename))
        archive.update()
        archive_files = archive.download([archive.show("busybox-static")], folder)
        apt.unpack(archive_files, folder / "tree")
        found = [path for path in (folder / "tree").rglob("bin/busybox") if path.is_file()]
        shutil.copy2(found[0], folder / "busybox")
        shutil.rmtree(folder / "tree")
        for path in archive_files:
            path.unlink()

    return cache.obtain("busybox", codename, _FORMAT, build) / "busybox"


def _boot_modules(kernel: kernels.Kernel) -> list[Path]:
    """The modules needed to reach the root disk, in the order in which they are loaded."""
    folder = Path(kernel.modules)
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    ordered: list[str] = []
    for name in _BOOT_MODULES:
        path = by_name.get(name)
        if path is not None:
            # depmod lists what is needed directly first, so the last one is loaded first.
            ordered += [p for p in [*reversed(needs[path]), path] if p not in ordered]
    return [folder / path for path in ordered]


def initramfs(kernel: kernels.Kernel, config: dict[str, str], path: Path) -> None:
    """Writes the initramfs of one run: busybox, a few modules, the guest's scripts, its orders."""
    archive = cpio.Archive()
    for name in ("proc", "sys", "dev", "root"):
        archive.folder(name)
    archive.file("bin/busybox", _busybox().read_bytes(), 0o755)
    for applet in _APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.file("init", (GUEST / "initramfs-init").read_bytes(), 0o755)
    names = []
    for module in _boot_modules(kernel):
        archive.file(f"modules/{module.name}", module.read_bytes())
        names.append(module.name)
    archive.file("modules/list", "".join(f"{name}\n" for name in names).encode())
    for name in ("init", "ending.sh"):
        archive.file(f"vm/{name}", (GUEST / name).read_bytes(), 0o755)
    for name, text in config.items():
        archive.file(f"vm/{name}", text.encode(), 0o755)
    archive.write(path)
