# SPDX-License-Identifier: Apache-2.0
"""Other ublk servers to compare with: kublk, which belongs to the kernel's own tests."""

from __future__ import annotations

import pathlib
import shutil

import buildroot
import cache
import kselftest

_LIBRARIES = ("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "liburing.so.2")


def collect() -> pathlib.Path:
    """A cached folder with kublk, and below lib/ the loader and the libraries of the suite that it
    is compiled in: the guest's own are older."""
    tests, origin = kselftest.obtain_tests()

    def build(folder: pathlib.Path) -> None:
        root = buildroot.compiler_root(kselftest.SUITE, kselftest.BUILD_PACKAGES)
        (folder / "lib").mkdir()
        shutil.copy2(tests / "kublk", folder / "kublk")
        for name in _LIBRARIES:
            shutil.copy2(root / "usr/lib/x86_64-linux-gnu" / name, folder / "lib" / name)

    key = {"source": origin, "suite": kselftest.SUITE, "libraries": _LIBRARIES}
    return cache.obtain("peers", "kublk", [str(key)], build)
