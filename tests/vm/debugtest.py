# SPDX-License-Identifier: Apache-2.0
"""Proves that a debug kernel notices what a driver does wrong, and that this fails a run.

Run it with `vm.py debug-kernel KERNEL --check`.
"""

from __future__ import annotations

import re
import sys
import tempfile
import unittest
from pathlib import Path

import kmod
from selftest import Guest

_FAULTS = Path(__file__).resolve().parent / "debug" / "faults"
_LIMIT_SECONDS = 600
_FAILED = 125
# What the kernel says of each fault; a leak is found by the harness, when it asks kmemleak.
_REPORTS = {
    "use_after_free": r"> .*BUG: KASAN: (slab-)?use-after-free in use_after_free",
    "lock_order": r"> .*WARNING: possible circular locking dependency detected",
    "leak": r"> unreferenced object 0x\w+ \(size 256\)",
    "sleep_under_spinlock": r"> .*BUG: scheduling while atomic|> .*BUG: sleeping function called",
    "rcu_without_lock": r"> .*WARNING: suspicious RCU usage",
    "out_of_bounds": r"> .*UBSAN: array-index-out-of-bounds",
    "list_twice": r"> .*list_add double add",
    "free_active_timer": r"> .*ODEBUG: free active",
}


class DebugKernel(unittest.TestCase):
    """One guest for each fault, two at a time."""

    kernel = ""

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.modules = Path(folder.name)
        kmod.build(cls.kernel, _FAULTS, cls.modules)

    def _start(self, fault: str) -> Guest:
        words = ["insmod", "/opt/ublkd/faults.ko", f"fault={fault}"]
        limit = ["--timeout", str(_LIMIT_SECONDS), "--payload", str(self.modules)]
        return Guest(words, *limit, kernel=self.kernel)

    def test_a_module_without_a_fault_passes(self) -> None:
        script = "insmod /opt/ublkd/faults.ko && rmmod faults && modprobe null_blk"
        script += " && dd if=/dev/nullb0 of=/dev/null bs=1M count=1 iflag=direct status=none"
        options = ["--timeout", str(_LIMIT_SECONDS), "--payload", str(self.modules)]
        options += ["--scratch", "64M", "--ramdisk", "32M"]
        guest = Guest(["sh", "-c", script], *options, kernel=self.kernel)
        guest.wait(self, 0)

    def test_every_fault_fails_the_run(self) -> None:
        faults = list(_REPORTS)
        for pair in zip(faults[::2], faults[1::2]):
            for fault, guest in [(fault, self._start(fault)) for fault in pair]:
                with self.subTest(fault):
                    guest.wait(self, _FAILED)
                    self.assertRegex(guest.stderr, re.compile(_REPORTS[fault]))


def main(kernel: str) -> int:
    """Runs all tests with a debug kernel; returns the exit status."""
    DebugKernel.kernel = kernel
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(DebugKernel)
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
    return 0 if result.wasSuccessful() else 1
