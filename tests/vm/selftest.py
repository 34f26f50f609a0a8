# SPDX-License-Identifier: Apache-2.0
"""Proves that the harness tells the truth: what passes, what fails, and what comes back.

Run it with `vm.py selftest`. UBLKD_VM_KERNEL names the kernel that is booted (default 6.1).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import cache
import debugkernel
import host
import kselftest
import verdict

_KERNEL = os.environ.get("UBLKD_VM_KERNEL", "6.1")
_VM = Path(__file__).resolve().parent / "vm.py"
_LIMIT_SECONDS = 240
_BOOT_LIMIT_SECONDS = 30.0


class Guest:
    """One guest run by the command line tool, in a folder of its own."""

    def __init__(
        self, words: list[str], *options: str, faults: str = "", kernel: str = _KERNEL
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.out = Path(self._folder.name) / "out"
        argv = [sys.executable, str(_VM), "run", kernel, "--out", str(self.out)]
        argv += ["--timeout", str(_LIMIT_SECONDS), *options, "--", *words]
        self._command = shlex.join(argv)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "UBLKD_VM_FAULTS": faults},
        )

    def wait(self, case: unittest.TestCase, status: int) -> None:
        """Waits for the end; shows everything that was said unless it is with this status."""
        self.stdout, self.stderr = self._process.communicate()
        said = f"{self._command}\n{self.stdout}\n{self.stderr}"
        case.assertEqual(self._process.returncode, status, said)


def _shell(script: str, *options: str) -> Guest:
    return Guest(["sh", "-c", script], *options)


class GoodRun(unittest.TestCase):
    """What a program in the guest finds, and what comes back; all from one run."""

    SCRIPT = """set -e
        /opt/ublkd/hello; cat /srv/deep/extra; echo complaint >&2
        mkdir /out/sub; echo kept >/out/sub/file
        echo '<3>Buffer I/O error on dev ublkb0' >/dev/kmsg
        dd if=/dev/zero of=/scratch/a bs=4k count=1 oflag=direct status=none
        dd if=/dev/zero of=/ramdisk/a bs=4k count=1 oflag=direct status=none
        modprobe loop
        touch /usr/lib/modules/changed /changed
        { findmnt -no TARGET,FSTYPE; findmnt -no PROPAGATION /; ip -br address; } >/out/system
        """
    guest: Guest

    @classmethod
    def setUpClass(cls) -> None:
        with tempfile.TemporaryDirectory() as name:
            payload = Path(name, "payload")
            payload.mkdir()
            program = payload / "hello"
            program.write_text("#!/bin/sh\necho payload\n")
            program.chmod(0o755)
            extra = Path(name, "extra")
            extra.write_text("extra\n")
            options = ["--payload", str(payload), "--add", f"{extra}:/srv/deep/extra"]
            options += ["--scratch", "64M", "--ramdisk", "32M"]
            options += ["--allow", "^Buffer I/O error on dev ublkb"]
            cls.guest = _shell(cls.SCRIPT, *options)
            cls.guest.wait(cls("test_the_output_comes_back"), 0)

    def test_the_output_comes_back(self) -> None:
        self.assertEqual(self.guest.stdout, "payload\nextra\ncomplaint\n")

    def test_the_files_and_logs_come_back(self) -> None:
        self.assertEqual((self.guest.out / "sub/file").read_text(), "kept\n")
        self.assertIn("Linux version", (self.guest.out / "kmsg.txt").read_text())
        self.assertIn("Linux version", (self.guest.out / "console.log").read_text())

    def test_an_allowed_message_does_not_fail_the_run(self) -> None:
        self.assertIn(";Buffer I/O error", (self.guest.out / "kmsg.txt").read_text())

    def test_the_system_is_complete(self) -> None:
        system = (self.guest.out / "system").read_text()
        for expected in (
            *(r"/proc +proc", r"/sys +sysfs", r"/dev +devtmpfs", r"/dev/pts +devpts"),
            *(r"/dev/shm +tmpfs", r"/run +tmpfs", r"/tmp +tmpfs", r"/sys/fs/cgroup +cgroup2"),
            *(r"/sys/kernel/debug +debugfs", r"/sys/kernel/tracing +tracefs"),
            *(r"/scratch +ext4", r"/ramdisk +ext4", r"^shared$", r"^lo .*127\.0\.0\.1"),
        ):
            self.assertRegex(system, re.compile(expected, re.MULTILINE))

    def test_the_program_starts_soon(self) -> None:
        found = re.search(
            r"started ([\d.]+) s after power on, ([\d.]+) s of it without", self.guest.stderr
        )
        self.assertIsNotNone(found, self.guest.stderr)
        took, waited = map(float, found.groups())
        self.assertLess(took - waited, _BOOT_LIMIT_SECONDS)


class Boot(unittest.TestCase):
    """What happens when a guest does not come up."""

    def test_a_guest_that_the_emulator_fails_is_booted_again(self) -> None:
        faults = "freeze crash"
        guest = Guest(["echo", "up"], "--silence", "8", faults=faults)
        never = Guest(["echo", "up"], "--silence", "2", faults="freeze freeze freeze")
        guest.wait(self, 0)
        self.assertEqual(guest.stdout, "up\n")
        for reason in ("the guest froze", "QEMU crashed"):
            self.assertIn(reason, guest.stderr)
        self.assertEqual(guest.stderr.count("booted again"), len(faults.split()))
        self.assertTrue((guest.out / "console.boot1.log").exists())
        never.wait(self, 126)
        self.assertEqual(never.stdout, "")
        self.assertEqual(never.stderr.count("booted again"), 2)
        self.assertIn("the guest did not come up", never.stderr)

    def test_a_panic_at_boot_fails_at_once(self) -> None:
        guest = Guest(["true"], "--append", "rdinit=/nothing")
        guest.wait(self, 126)
        self.assertIn("Kernel panic", guest.stderr)
        self.assertNotIn("booted again", guest.stderr)


class Trouble(unittest.TestCase):
    """What fails a run."""

    def test_a_hang_ends_at_the_time_limit_and_other_guests_run_on(self) -> None:
        script = "echo its last words; echo partial >/out/partial; exec sleep 1000"
        hung = _shell(script, "--timeout", "10")
        # The second guest's program leaves a process, and finds nothing of another guest.
        _shell("test ! -e /changed || exit 9; sleep 1000 & exit 7").wait(self, 7)
        missing = Guest(["/opt/ublkd/nothing"])
        missing.wait(self, 127)
        self.assertIn("/opt/ublkd/nothing: no such program in the guest", missing.stderr)
        hung.wait(self, 124)
        self.assertIn("time limit of 10 s", hung.stderr)
        self.assertRegex(hung.stderr, r"the last lines of the program:\n.*its last words\n")
        self.assertIn("sleep 1000", (hung.out / "threads.txt").read_text())
        self.assertEqual((hung.out / "partial").read_text(), "partial\n")

    def test_a_kernel_warning_fails_a_run_that_ends_well(self) -> None:
        script = "echo '<4>WARNING: made up' >/dev/kmsg; echo '<4>harmless' >/dev/kmsg"
        guest = _shell(script)
        guest.wait(self, 125)
        self.assertRegex(guest.stderr, r"> <4>.*WARNING: made up")
        self.assertRegex(guest.stderr, r"> <4>.*harmless")

    def test_a_panic_is_reported_with_its_last_lines(self) -> None:
        guest = _shell("echo before; echo c >/proc/sysrq-trigger; sleep 1000")
        guest.wait(self, 125)
        self.assertIn("before", guest.stdout)
        self.assertIn("Kernel panic", guest.stderr)

    def test_a_process_that_can_not_be_killed_fails_a_run(self) -> None:
        guest = _shell("fsfreeze -f /scratch; touch /scratch/file & sleep 0.5", "--scratch", "64M")
        guest.wait(self, 125)
        self.assertRegex(guest.stderr, r"process \d+ touch can't be killed")
        self.assertIn("percpu_rwsem_wait", (guest.out / "threads.txt").read_text())


class Verdict(unittest.TestCase):
    """Which messages are bad."""

    def judge(self, *texts: str, allowed: tuple[str, ...] = ()) -> list[str]:
        messages = [verdict.Message(int(text[1]), 1.0, text[3:]) for text in texts]
        return verdict.judge(messages, [re.compile(regex) for regex in allowed])

    def test_levels_up_to_warning_are_bad_and_others_are_not(self) -> None:
        self.assertEqual(self.judge("<6>fine", "<5>fine too"), [])
        for level in range(5):
            self.assertEqual(len(self.judge(f"<{level}>something")), 1)

    def test_reports_are_bad_at_any_level(self) -> None:
        for text in (
            "INFO: task fio:12 blocked for more than 60 seconds.",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "WARNING: possible circular locking dependency detected",
            "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "unregister_netdevice: waiting for lo to become free",
        ):
            self.assertEqual(len(self.judge(f"<6>{text}")), 1, text)

    def test_a_standstill_is_told_from_other_reports(self) -> None:
        for text, expected in (
            ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", True),
            ("INFO: task swapper:1 blocked for more than 60 seconds.", True),
            ("watchdog: BUG: soft lockup - CPU#1 stuck for 60s!", True),
            ("BUG: kernel NULL pointer dereference, address: 0000000000000000", False),
            ("WARNING: CPU: 1 PID: 1 at kernel/smp.c:1", False),
        ):
            message = verdict.Message(None, 1.0, text)
            self.assertEqual(verdict.is_standstill(message), expected, text)

    def test_context_and_gaps_are_shown(self) -> None:
        lines = self.judge(*"<6>a <6>b <6>c <6>d <4>bad <6>e <4>ok".split(), allowed=("ok",))
        self.assertEqual([line[0] for line in lines], [" ", " ", " ", ">"])

    def test_every_allowed_message_has_a_reason(self) -> None:
        self.assertTrue(verdict.read_allow_file())
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("^no reason given\n")
            file.flush()
            with self.assertRaisesRegex(host.Failure, "line 1 gives no reason"):
                verdict.read_allow_file(Path(file.name))


def _obtain(folder: str, together: Any) -> None:

    def build(entry: Path) -> None:
        with (Path(folder) / "builds").open("a") as log:
            log.write("built\n")
        (entry / "file").write_text("content")

    if together is not None:
        together.wait()
    cache.obtain("kind", "name", "key", build)


class Cache(unittest.TestCase):
    """What is cached is right, or it is made again."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        patch = mock.patch.dict(os.environ, {"XDG_CACHE_HOME": self.folder})
        patch.start()
        self.addCleanup(patch.stop)

    def builds(self) -> int:
        return len((Path(self.folder) / "builds").read_text().splitlines())

    def start(self, together: Any = None) -> multiprocessing.Process:
        worker = multiprocessing.Process(target=_obtain, args=(self.folder, together))
        worker.start()
        return worker

    def test_an_entry_is_made_once_by_processes_that_start_together(self) -> None:
        together = multiprocessing.Barrier(4)
        workers = [self.start(together) for _ in range(4)]
        for worker in workers:
            worker.join()
            self.assertEqual(worker.exitcode, 0)
        self.assertEqual(self.builds(), 1)

    def test_a_process_that_uses_an_entry_can_make_it_newer(self) -> None:
        def renew() -> None:
            for key in ("old", "new"):
                cache.obtain("kind", "name", key, lambda folder: (folder / "file").touch())

        worker = multiprocessing.Process(target=renew)
        worker.start()
        worker.join(timeout=20)
        self.addCleanup(worker.kill)
        self.assertEqual(worker.exitcode, 0, "it waits for a lock that it holds itself")

    def test_a_damaged_entry_is_made_again(self) -> None:
        file = Path(self.folder, "ublkd/kind/name/file")
        for damage, expected in ((None, 1), (None, 1), ("damaged", 2), ("short", 3)):
            if damage is not None:
                file.write_text(damage)
            self.start().join()
            self.assertEqual(self.builds(), expected, f"after the file became {damage!r}")
            self.assertEqual(file.read_text(), "content")


    def test_an_entry_is_found_without_its_key_unless_it_is_damaged(self) -> None:
        def look() -> None:
            assert cache.existing("kind", "name") is None
            entry = cache.obtain("kind", "name", "key", lambda folder: (folder / "file").touch())
            assert cache.existing("kind", "name") == entry
            (entry / "file").write_text("damaged")
            assert cache.existing("kind", "name") is None

        worker = multiprocessing.Process(target=look)
        worker.start()
        worker.join()
        self.assertEqual(worker.exitcode, 0)


class DebugConfiguration(unittest.TestCase):
    """A debug kernel has what was asked for."""

    def test_a_line_that_a_kernel_knows_and_did_not_take_is_found(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            tree = Path(name)
            text = "config GOT\nmenuconfig LOST\nconfig OFF\nconfig STAYED\n"
            (tree / "Kconfig").write_text(text)
            wanted = ["CONFIG_GOT=y", "CONFIG_LOST=y", "CONFIG_NEVER=y"]
            wanted += ["CONFIG_OFF=n", "CONFIG_STAYED=n"]
            taken = "CONFIG_GOT=y\n# CONFIG_OFF is not set\nCONFIG_STAYED=m\n"
            lost = debugkernel.lost_lines(wanted, taken, tree)
        self.assertEqual(lost, ["CONFIG_LOST=y", "CONFIG_STAYED=n"])


class KernelSelftests(unittest.TestCase):
    """What is made of the words of a guest that runs the kernel's own tests."""

    def follow(self, *lines: str) -> tuple[list[tuple[str, str]], str | None]:
        """The outcomes and reasons, and the test that the guest did not end."""
        results: list[kselftest.Result] = []
        reader = kselftest.Reader([re.compile("harmless")], 300, results.append)
        unfinished = reader.follow(f"{line}\n" for line in lines)
        return [(result.outcome, result.reason) for result in results], unfinished

    def test_the_status_decides(self) -> None:
        lines = "begin a_01|end a_01 0 3|begin a_02|end a_02 4 1|begin a_03|end a_03 255 2"
        found, unfinished = self.follow(*lines.split("|"))
        self.assertEqual(found, [("pass", ""), ("skip", ""), ("fail", "exit status 255")])
        self.assertIsNone(unfinished)

    def test_a_kernel_complaint_fails_a_test_that_passed(self) -> None:
        for text, expected in (("harmless", "pass"), ("WARNING: x", "fail")):
            found, _ = self.follow("begin a_01", f"kmsg 4,1,2,-;{text}", "end a_01 0 3")
            self.assertEqual(found[0][0], expected, found)

    def test_a_reason_is_the_last_words_and_the_last_condition(self) -> None:
        said = ("said ublk selftest: a_01 starting at x", "said no luck", "said a_01 : [SKIP]")
        step = "step ++ _have_program bpftrace"
        found, _ = self.follow("begin a_01", *said, step, "end a_01 4 1")
        self.assertEqual(found, [("skip", "no luck, after `_have_program bpftrace`")])
        found, _ = self.follow("begin a_01", said[0], step, "end a_01 4 1")
        self.assertEqual(found, [("skip", "after `_have_program bpftrace`")])

    def test_the_time_limit_and_the_end_of_a_guest_are_told(self) -> None:
        found, unfinished = self.follow("begin a_01", "end a_01 124 300", "begin a_02", "said x")
        self.assertEqual(found, [("fail", "took longer than 300 s")])
        self.assertEqual(unfinished, "a_02")


def main() -> int:
    """Runs all tests; the last line on stdout is `N passed, N failed`."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed")
    return 1 if failed or not result.testsRun else 0
