# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel's own ublk selftests in guests, with our driver or the kernel's.

They are scripts around the server `kublk`, part of the newest kernel's source, and are fetched and
compiled when they are run. Many tests share a guest until one fails; the next ones get a fresh one.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable, Iterable

import apt
import buildroot
import cache
import host
import images
import kernels
import kmod
import sources
import verdict

_HERE = Path(__file__).resolve().parent
_FOLDER = _HERE / "kselftest"
_CHECKOUT = _HERE.parents[1]
_DRIVER = _CHECKOUT / "driver"
OUT = _CHECKOUT / "build" / "kselftest"
_MODULE = "ublk_drv"
_SOURCE_KERNEL = "7.x"
# The suite that has a liburing, fio and bpftrace that are new enough.
SUITE = "forky"
BUILD_PACKAGES = ["libc6-dev", "liburing-dev"]
_SELFTESTS = "tools/testing/selftests"
_MEMBERS = [f"{_SELFTESTS}/{name}" for name in ("ublk", "lib.mk", "kselftest.h")]
_MEMBERS.append(f"{_SELFTESTS}/kselftest_harness.h")
_FORMAT = 1  # Counts up when what is made of the source changes.
_GUEST = ["--smp", "4", "--mem", "2560", "--scratch", "4G"]
_RUN_TESTS = "/opt/run-tests"
_SKIP_STATUS = 4
_TIMEOUT_STATUSES = (124, 137)
_SPARE_SECONDS = 60  # What a test may take beyond its limit before the guest is given up.
_MARK = re.compile(r"^ublk selftest: |: \[(PASS|SKIP|FAIL)\]$")


@dataclass
class Result:
    """What became of one test; `outcome` is pass, skip or fail."""

    name: str
    outcome: str
    seconds: int
    reason: str = ""


@dataclass
class _Running:
    """A test of which the guest is telling."""

    name: str
    said: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """Why it did not pass: its own last words, and the last condition that it looked at."""
        words = [line.strip() for line in self.said if not _MARK.search(line) and line.strip()]
        steps = [f"after `{step.lstrip('+ ')}`" for step in self.steps]
        return ", ".join(words[-1:] + steps[-1:])


class Reader:
    """Reads what run-tests tells, and judges each test as soon as it has ended."""

    def __init__(
        self,
        allowed: list[re.Pattern[str]],
        limit_seconds: int,
        conclude: Callable[[Result], None],
    ) -> None:
        self._allowed = allowed
        self._limit_seconds = limit_seconds
        self._conclude = conclude

    def follow(self, lines: Iterable[str]) -> str | None:
        """Reads to the end; returns the name of the test that had not ended then."""
        running: _Running | None = None
        for line in lines:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "begin":
                running = _Running(rest)
            elif running is None:
                continue
            elif word == "said":
                running.said.append(rest)
            elif word == "step":
                running.steps.append(rest)
            elif word == "kmsg":
                running.records.append(rest)
            elif word == "end":
                _, status, seconds = rest.split()
                self._conclude(self._judge(running, int(status), int(seconds)))
                running = None
        return running.name if running else None

    def _judge(self, test: _Running, status: int, seconds: int) -> Result:
        bad = verdict.judge(verdict.parse_kmsg("\n".join(test.records)), self._allowed)
        reason = test.reason()
        if bad:
            first = next(line for line in bad if line.startswith(">"))
            return Result(test.name, "fail", seconds, f"the kernel complained: {first[2:]}")
        if status == 0:
            return Result(test.name, "pass", seconds)
        if status == _SKIP_STATUS:
            return Result(test.name, "skip", seconds, reason)
        if status in _TIMEOUT_STATUSES:
            reason = f"took longer than {self._limit_seconds} s" + (f"; {reason}" if reason else "")
        return Result(test.name, "fail", seconds, reason or f"exit status {status}")


@dataclass(frozen=True)
class Options:
    """What to run, and how."""

    kernels: list[str]
    names: list[str]
    stock: bool
    limit_seconds: int
    out: Path


def _build_tests(source: apt.Package, headers: apt.Package, folder: Path) -> None:
    """Leaves the scripts and their compiled server in `folder`/ublk."""
    root = buildroot.compiler_root(SUITE, BUILD_PACKAGES)
    tree = sources.unpack(_SOURCE_KERNEL, source, folder, _MEMBERS)
    with host.step("compiling kublk"):
        debs = folder / "debs"
        debs.mkdir()
        apt.unpack(kernels.archive_of(_SOURCE_KERNEL).download([headers], debs), debs)
        (tree / "usr").mkdir()
        (debs / "usr/include").rename(tree / "usr/include")
        tests = tree / _SELFTESTS / "ublk"
        what = "compiling the kernel's ublk selftests"
        remedy = "look for what they need that tests/vm/kselftest.py does not give them"
        buildroot.run_in_root(root, ["make", "-C", str(tests)], folder, folder, what, remedy)
    tests.rename(folder / "ublk")
    shutil.rmtree(debs)
    shutil.rmtree(tree)


def obtain_tests() -> tuple[Path, str]:
    """The cached folder of tests for a guest's /opt/ublkd, and where it is from."""

    def choose(archive: apt.Archive) -> list[apt.Package]:
        return [archive.show("linux-libc-dev")]

    source = sources.newest(_SOURCE_KERNEL)
    headers = kernels.resolve(_SOURCE_KERNEL, "uapi", choose)[0]
    origin = f"{source.name} {source.version}"
    key = {
        "format": _FORMAT,
        "source": origin,
        "headers": headers.version,
        "suite": SUITE,
        "packages": BUILD_PACKAGES,
    }
    entry = cache.obtain(
        "kselftest", "ublk", key, lambda folder: _build_tests(source, headers, folder)
    )
    return entry / "ublk", origin


def _choose(tests: Path, wanted: list[str]) -> list[str]:
    """The names of the tests that are wanted: `null_01`, or `null` for all of its kind."""
    found = [path.stem.removeprefix("test_") for path in sorted(tests.glob("test_*_[0-9]*.sh"))]
    for name in wanted:
        if not any(test == name or test.startswith(f"{name}_") for test in found):
            raise host.Failure(
                f"selftest {name}: there is none; there are {', '.join(found)}, and their kinds"
            )
    if not wanted:
        return found
    return [t for t in found if t in wanted or t.rpartition("_")[0] in wanted]


class _Campaign:
    """All tests on one kernel."""

    def __init__(self, options: Options, kernel: str, tests: Path, root: Path) -> None:
        self._options = options
        self._out = options.out / kernel
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir(parents=True)
        self._allowed = verdict.read_allow_file()
        self._allowed += verdict.read_allow_file(_FOLDER / "allow.txt")
        self._kernel = kernel
        self._guest = [*_GUEST, "--root", str(root), "--payload", str(tests)]
        self._guest += ["--add", f"{_FOLDER / 'run-tests'}:{_RUN_TESTS}"]
        if not options.stock:
            modules = options.out / "modules" / kernel
            kmod.build(kernel, _DRIVER, modules)
            self._guest += ["--add", f"{modules}:/opt/{_MODULE}"]
        elif not list(Path(kernels.fetch(kernel).modules).rglob(f"{_MODULE}.ko")):
            raise host.Failure(
                f"kernel {kernel}: it has no ublk driver of its own; leave it out with --kernels"
            )
        self.results: list[Result] = []
        self._boots = 0

    def run(self, names: list[str]) -> list[Result]:
        """Runs the tests, in as many guests as it takes."""
        pending = list(names)
        while pending:
            self._boot(pending)
            done = {result.name for result in self.results}
            pending = [name for name in pending if name not in done]
        return self.results

    def _boot(self, names: list[str]) -> None:
        """One guest, until something goes wrong in it; at least one test gets a result."""
        self._boots += 1
        logs = self._out / f"guest-{self._boots}"
        limit = self._options.limit_seconds
        patience = len(names) * (limit + _SPARE_SECONDS)
        argv = [sys.executable, str(_HERE / "vm.py"), "run", self._kernel, *self._guest]
        argv += ["--out", str(logs), "--timeout", str(patience), "--"]
        argv += [_RUN_TESTS, str(limit), *names]
        logs.mkdir()
        before = len(self.results)
        with (logs / "harness.log").open("w") as errors:
            guest = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
                errors="replace",
            )
            assert guest.stdout is not None
            reader = Reader(self._allowed, limit, self._conclude)
            unfinished = reader.follow(guest.stdout)
            status = guest.wait()
        if unfinished is not None:
            self._conclude(Result(unfinished, "fail", 0, self._last_words(logs, status)))
        elif len(self.results) == before:
            raise host.Failure(
                f"running selftests on {self._kernel}: the guest ended with status {status} before "
                f"the first; see {logs / 'harness.log'}"
            )

    def _last_words(self, logs: Path, status: int) -> str:
        """Why a guest ended in the middle of a test."""
        console = logs / "console.log"
        text = console.read_text(errors="replace") if console.exists() else ""
        bad = verdict.judge(verdict.read_console(text), self._allowed)
        first = next((line[2:] for line in bad if line.startswith(">")), "see its console.log")
        return f"the guest ended with status {status}: {first}"

    def _conclude(self, result: Result) -> None:
        self.results.append(result)
        reason = f": {result.reason}" if result.reason else ""
        text = f"{self._kernel} {result.name}: {result.outcome} in {result.seconds} s{reason}"
        host.say(text, level=0 if result.outcome == "fail" else 1)


def _table(results: dict[str, list[Result]]) -> str:
    """Tests by kernels, then the reasons, then the totals."""
    names = [result.name for result in next(iter(results.values()))]
    width = max(map(len, names)) + 2
    lines = ["".ljust(width) + "".join(kernel.ljust(12) for kernel in results)]
    for number, name in enumerate(names):
        cells = [f"{row[number].outcome} {row[number].seconds:>4} s" for row in results.values()]
        lines.append(name.ljust(width) + "".join(cell.ljust(12) for cell in cells))
    lines.append("")
    for kernel, row in results.items():
        for result in row:
            if result.outcome != "pass":
                lines.append(f"{kernel} {result.name} {result.outcome}: {result.reason}")
    lines.append("")
    for kernel, row in results.items():
        count = {o: sum(r.outcome == o for r in row) for o in ("pass", "skip", "fail")}
        lines.append(f"{kernel}: {count['pass']} pass, {count['skip']} skip, {count['fail']} fail")
    return "\n".join(lines)


def run(options: Options) -> int:
    """Runs the selftests; prints a table; the exit status is 1 when one failed."""
    tests, origin = obtain_tests()
    names = _choose(tests, options.names)
    root = images.userland([_FOLDER / "packages.txt"], SUITE)
    results: dict[str, list[Result]] = {}
    for kernel in options.kernels:
        found = _Campaign(options, kernel, tests, root).run(names)
        results[kernel] = sorted(found, key=lambda result: names.index(result.name))
    print(_table(results))
    facts = {
        "source": origin,
        "driver": "the kernel's" if options.stock else "ours",
        "kernels": {
            kernel: {
                "release": kernels.fetch(kernel).release,
                "tests": [asdict(result) for result in row],
            }
            for kernel, row in results.items()
        },
    }
    (options.out / "results.json").write_text(json.dumps(facts, indent=1))
    host.say(f"results, output and kernel messages are in {options.out}")
    return int(any(result.outcome == "fail" for row in results.values() for result in row))
