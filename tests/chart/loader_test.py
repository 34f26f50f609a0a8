# SPDX-License-Identifier: Apache-2.0
"""The script of the init container, run against made-up nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import chart

SCRIPT = chart.CHART / "files/load-driver.sh"
RELEASE = "6.1.0-test"


class LoadDriver(unittest.TestCase):
    """Each node is a folder with the programs that the script calls."""

    def setUp(self) -> None:
        self.node = Path(tempfile.mkdtemp(prefix="ublkd-node-"))
        self.addCleanup(shutil.rmtree, self.node)
        (self.node / "modules" / RELEASE).mkdir(parents=True)
        self.program("uname", f"echo {RELEASE}")
        self.program("modinfo", "echo /lib/modules/ublk_drv.ko")
        self.program("modprobe", 'echo "$@" >>"$NODE/modprobe.log"')

    def program(self, name: str, body: str) -> None:
        path = self.node / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def load(self, *parameters: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.node}:{os.environ['PATH']}",
            "NODE": str(self.node),
            "MODULES": str(self.node / "modules"),
            "LOADED": str(self.node / "loaded"),
        }
        return subprocess.run(
            ["/bin/sh", "-c", SCRIPT.read_text("utf-8"), "load-driver", *parameters],
            env=environment, capture_output=True, text=True, check=False,
        )

    def refuse(self, *words: str) -> None:
        result = self.load()
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, "")
        self.assertEqual(len(result.stderr.splitlines()), 1, "one sentence: " + result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_a_module_is_loaded_with_its_parameters(self) -> None:
        result = self.load("ublks_max=1024")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((self.node / "modprobe.log").read_text(), "ublk_drv ublks_max=1024\n")

    def test_a_loaded_module_is_left_alone(self) -> None:
        (self.node / "loaded").mkdir()
        self.assertEqual(self.load().returncode, 0)
        self.assertFalse((self.node / "modprobe.log").exists())

    def test_a_kernel_without_the_module_is_named(self) -> None:
        self.program("modinfo", "exit 1")
        self.refuse(f"kernel {RELEASE} has no module ublk_drv", "/usr/src/ublkd")

    def test_a_kernel_whose_modules_are_gone_wants_a_reboot(self) -> None:
        (self.node / "modules" / RELEASE).rmdir()
        self.refuse(RELEASE, "reboot")

    def test_reasons_have_remedies(self) -> None:
        for reason, remedy in [
            ("Key was rejected by service", "mokutil"),
            ("Required key not available", "mokutil"),
            ("Operation not permitted", "locked down"),
            ("Exec format error", "rebuild it"),
            ("Something else", "kernel log"),
        ]:
            with self.subTest(reason):
                message = f"modprobe: ERROR: could not insert 'ublk_drv': {reason}"
                self.program("modprobe", f'echo "{message}" >&2; exit 1')
                self.refuse(reason, remedy)

    def test_the_script_is_clean(self) -> None:
        if shutil.which("shellcheck") is None:
            self.skipTest("shellcheck is not installed")
        result = subprocess.run(
            ["shellcheck", "-s", "sh", SCRIPT], capture_output=True, text=True, check=False
        )
        self.assertEqual(result.returncode, 0, result.stdout)
