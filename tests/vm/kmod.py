# SPDX-License-Identifier: Apache-2.0
"""Builds an out-of-tree kernel module folder for one of the kernels."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import buildroot
import cache
import host
import kernels

_RESULT = ".kmod.json"
_LOG = "build.log"
IGNORED = shutil.ignore_patterns("*.o", "*.ko", "*.mod", "*.mod.c", "*.cmd", ".git")


def _compiler(kernel: kernels.Kernel) -> str:
    """The compiler that built the kernel, such as `gcc-12`."""
    variables = Path(kernel.kdir, ".kernelvariables")
    text = variables.read_text() if variables.exists() else ""
    found = re.search(r"\bgcc-\d+", text)
    return found.group(0) if found else "gcc"


def _host_can_build(kernel: kernels.Kernel) -> bool:
    """Whether this machine has the kernel's compiler and a C library for its build tools."""
    needed = [_compiler(kernel), "make"]
    if any(host.find_program(name) is None for name in needed):
        return False
    # Since 6.12 objtool is a wrapper of objtool.real-ARCH.
    for tools in ("scripts/basic/fixdep", "scripts/mod/modpost", "tools/objtool/objtool*"):
        for path in Path(kernel.kdir).glob(tools):
            if not path.is_file() or not os.access(path, os.X_OK):
                continue
            tried = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True)
            if b"GLIBC" in tried.stderr or b"shared libraries" in tried.stderr:
                return False
    return True


def _make_arguments(kernel: kernels.Kernel, source: Path, has_pahole: bool) -> list[str]:
    argv = ["make", "-C", str(source), f"-j{os.cpu_count() or 1}", f"KDIR={kernel.kdir}"]
    if not has_pahole:
        argv.append("CONFIG_DEBUG_INFO_BTF_MODULES=")
    return argv


def _build(kernel: kernels.Kernel, source: Path) -> tuple[str, str]:
    """Runs make on a copy of the module folder; returns its output and where it ran."""
    what = f"building {source.name} for kernel {kernel.name}"
    remedy = "mend the compiler errors above"
    if _host_can_build(kernel):
        argv = _make_arguments(kernel, source, host.find_program("pahole") is not None)
        return host.run(argv, what, remedy), "this machine"
    tree = buildroot.compiler_root(kernel.build_suite)
    argv = _make_arguments(kernel, source, (tree / "usr/bin/pahole").exists())
    return (
        buildroot.run_in_root(tree, argv, source, Path(kernel.tree), what, remedy),
        f"a {kernel.build_suite} root",
    )


def _is_current(out: Path, key: dict[str, str]) -> bool:
    try:
        result = json.loads((out / _RESULT).read_text())
        return result["key"] == key and all(
            cache.digest_file(out / name) == digest for name, digest in result["modules"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def build(kernel_name: str, driver: Path, out: Path) -> list[Path]:
    """Builds the folder `driver` for a kernel, unless nothing changed.

    Returns the .ko files, which are in `out`.
    The folder's Makefile is run as `make KDIR=<kernel headers>` on a copy of it.
    """
    if not (driver / "Makefile").is_file():
        raise host.Failure(f"building {driver}: it has no Makefile; name the module's folder")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    kernel = kernels.fetch(kernel_name)
    with cache.Mutex(f"kmod-{cache.digest_text(str(out))}"):
        source = out / "src" / driver.resolve().name
        shutil.rmtree(out / "src", ignore_errors=True)
        shutil.copytree(driver, source, symlinks=False, ignore=IGNORED)
        key = {
            "release": kernel.release,
            "headers": cache.digest_file(Path(kernel.kdir, "Module.symvers")),
            "sources": cache.digest_tree(source, contents=True),
        }
        if not _is_current(out, key):
            _build_into(kernel, source, out, key)
        else:
            host.say(f"{driver.name} for {kernel.release}: nothing changed")
        shutil.rmtree(out / "src", ignore_errors=True)
        return sorted(out.glob("*.ko"))


def _build_into(kernel: kernels.Kernel, source: Path, out: Path, key: dict[str, str]) -> None:
    for old in [out / _RESULT, *out.glob("*.ko")]:
        old.unlink(missing_ok=True)
    with host.step(f"building {source.name} for {kernel.release}"):
        log, where = _build(kernel, source)
    (out / _LOG).write_text(log)
    host.say(f"built on {where}; the compiler's output is in {out / _LOG}", level=2)
    modules = sorted(source.rglob("*.ko"))
    if not modules:
        raise host.Failure(
            f"building {source.name}: make ended well and left no .ko; check its Makefile"
        )
    for module in modules:
        shutil.copy2(module, out / module.name)
    digests = {module.name: cache.digest_file(out / module.name) for module in modules}
    (out / _RESULT).write_text(json.dumps({"key": key, "modules": digests}, indent=1))
