# SPDX-License-Identifier: Apache-2.0
"""Builds a module folder as DKMS does on a user's machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import buildroot
import cache
import host
import kernels
import kmod

_PACKAGES = ["dkms", "kmod"]
_REMEDY = "mend dkms.conf or the compiler errors above"


def _setting(text: str, name: str) -> str:
    found = re.search(rf'^{name}="(.*)"$', text, re.MULTILINE)
    if found is None:
        raise host.Failure(f"reading dkms.conf: it has no {name}; add it")
    return found.group(1)


def build(kernel_name: str, driver: Path, out: Path) -> list[Path]:
    """Builds the folder `driver` with `dkms build` for a kernel; the .ko files are in `out`/tree.

    DKMS runs in a root of the suite that built the kernel, with trees of its own in `out`.
    """
    conf = driver / "dkms.conf"
    if not conf.is_file():
        raise host.Failure(f"building {driver}: it has no dkms.conf; name the module's folder")
    text = conf.read_text()
    name, version = _setting(text, "PACKAGE_NAME"), _setting(text, "PACKAGE_VERSION")
    kernel = kernels.fetch(kernel_name)
    root = buildroot.compiler_root(kernel.build_suite, _PACKAGES)
    out = out.resolve()
    with cache.Mutex(f"dkms-{cache.digest_text(str(out))}"):
        for folder in ("src", "tree"):
            shutil.rmtree(out / folder, ignore_errors=True)
        shutil.copytree(driver, out / "src" / f"{name}-{version}", ignore=kmod.IGNORED)
        (out / "tree").mkdir()
        argv = ["dkms", "build", "-m", name, "-v", version, "-k", kernel.release]
        argv += ["--kernelsourcedir", kernel.kdir, "--sourcetree", str(out / "src")]
        argv += ["--dkmstree", str(out / "tree")]
        what = f"building {name} {version} with DKMS for kernel {kernel_name}"
        with host.step(f"building {name} {version} with DKMS for {kernel.release}"):
            log = buildroot.run_in_root(root, argv, out, Path(kernel.tree), what, _REMEDY)
    modules = sorted((out / "tree").rglob("*.ko*"))
    if not modules:
        raise host.Failure(f"{what}: it left no module; it said:\n{log}")
    return modules
