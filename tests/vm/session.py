# SPDX-License-Identifier: Apache-2.0
"""Follows one guest from its start to its end: passes its output on and keeps the time limit."""

from __future__ import annotations

import math
import os
import selectors
import sys
import time
from dataclasses import dataclass, field
from typing import BinaryIO

import host
import machine
import verdict

_CHUNK_BYTES = 1 << 16
_TICK_SECONDS = 0.5
_UNDISTURBED_SECONDS = 20.0  # At most; the clocks are set after two or three.
# These three are for a stock kernel; Spec.patience times as much for one that is slow.
SILENCE_SECONDS = 30.0  # A sound guest was never seen to say nothing for longer than ten.
_COLLECT_SECONDS = 60.0
_SHUTDOWN_SECONDS = 15.0
_OUTPUT_END_BYTES = 1000


@dataclass
class Report:
    """What became of a run."""

    status: int | None = None
    started_after: float | None = None
    waited_seconds: float = 0.0  # What QEMU waited for a processor by then.
    crashed: bool = False  # QEMU has.
    frozen: bool = False  # Nothing was heard of the guest any more before its program started.
    timed_out: bool = False
    missing_program: bool = False
    files_complete: bool = False
    output_end: bytes = b""  # The last that the program said.
    console: str = ""  # Up to the time limit, when that has passed.
    console_after: str = ""  # What the console said after it.
    qemu_errors: str = ""
    stuck: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Rescue:
    """One step to make a hung guest tell what it is doing, and how long it gets."""

    text: str
    seconds: float


_RESCUES = [
    _Rescue("asking the guest for its blocked tasks, messages and files", 20.0),
    _Rescue("pressing SysRq w and l on the console", 6.0),
    _Rescue("sending an NMI", 5.0),
]


class Session:
    """Runs a guest; see follow()."""

    def __init__(
        self, spec: machine.Spec, limit_seconds: float, silence_seconds: float, rescue: bool
    ) -> None:
        """`rescue` makes a guest that is frozen at boot talk; one that hangs later always does."""
        self._folder = spec.folder
        self._console = spec.folder / machine.CONSOLE_LOG
        self._console_shown = 0
        self._calm = False
        self._begin = time.monotonic()
        self._limit_seconds = limit_seconds
        self._patience = spec.patience
        self._deadline = math.inf
        self._silence_limit_seconds = silence_seconds * spec.patience
        self._silence_seconds = 0.0
        self._heard_characters = 0
        self._looked_at = self._begin
        self._rescue_frozen = rescue
        self._machine = machine.Machine(spec)
        self._report = Report()
        self._lines = b""
        self._rescue = -1
        self._console_at_limit: int | None = None
        self._selector = selectors.DefaultSelector()
        for name, channel in self._machine.channels.items():
            self._selector.register(channel, selectors.EVENT_READ, name)

    def follow(self) -> Report:
        """Returns when the guest has ended: by itself, frozen at boot, or by the time limit."""
        try:
            with (self._folder / "files.tar").open("wb") as files:
                self._watch(files)
        finally:
            self._machine.kill()
            self._selector.close()
        report = self._report
        console = self._console.read_bytes() if self._console.exists() else b""
        limit = len(console) if self._console_at_limit is None else self._console_at_limit
        report.console = console[:limit].decode(errors="replace")
        report.console_after = console[limit:].decode(errors="replace")
        report.qemu_errors = self._machine.errors()
        return report

    def _watch(self, files: BinaryIO) -> None:
        """Until QEMU has ended and all it sent has been read."""
        while not self._machine.ended():
            self._pump(files, _TICK_SECONDS)
            self._show_console()
            if self._report.started_after is None:
                self._follow_boot()
            if self._report.frozen and not self._rescue_frozen:
                break
            if time.monotonic() > self._deadline and not self._next_rescue():
                break
        self._report.crashed = self._machine.crashed()
        while self._pump(files, 0):
            pass
        self._show_console()

    def _follow_boot(self) -> None:
        """Finds out whether the guest still comes up."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        now = time.monotonic()
        undisturbed = now < self._begin + _UNDISTURBED_SECONDS
        if not self._calm and (machine.CLOCKS_SET in text or not undisturbed):
            self._machine.calm()
            self._calm = True
        # While QEMU gets no processor the guest can say nothing.
        passed = now - self._looked_at
        waited = min(self._machine.waited_seconds(), passed)
        self._looked_at = now
        self._report.waited_seconds += waited
        self._silence_seconds += passed - waited
        if len(text) != self._heard_characters:
            self._heard_characters = len(text)
            self._silence_seconds = 0.0
        silent = self._silence_seconds > self._silence_limit_seconds
        standstill = any(verdict.is_standstill(m) for m in verdict.read_console(text))
        if (silent or standstill) and not self._report.frozen:
            self._report.frozen = True
            self._deadline = now

    def _show_console(self) -> None:
        """Passes on what the console said since the last time, if that is wanted."""
        if host.Output.level >= 2 and self._console.exists():
            with self._console.open("rb") as console:
                console.seek(self._console_shown)
                data = console.read()
            self._console_shown += len(data)
            sys.stderr.buffer.write(data.replace(b"\r", b""))
            sys.stderr.flush()

    def _pump(self, files: BinaryIO, seconds: float) -> bool:
        """Moves what has arrived; False when there was nothing."""
        moved = False
        for key, _ in self._selector.select(seconds):
            try:
                data = os.read(key.fd, _CHUNK_BYTES)
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(key.fileobj)
                continue
            moved = True
            if key.data == "output":
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                said = self._report.output_end + data
                self._report.output_end = said[-_OUTPUT_END_BYTES:]
            elif key.data == "files":
                files.write(data)
            elif key.data == "control":
                self._control(data)
        return moved

    def _control(self, data: bytes) -> None:
        """Reads the guest's status lines."""
        *lines, self._lines = (self._lines + data).split(b"\n")
        for raw in lines:
            word, _, rest = raw.decode(errors="replace").partition(" ")
            report = self._report
            if word == "started":
                report.started_after = time.monotonic() - self._begin
                self._deadline = time.monotonic() + self._limit_seconds
                host.say(f"the program starts ({report.started_after:.1f} s after power on)", 2)
            elif word == "exit":
                report.status = int(rest)
                collected = time.monotonic() + _COLLECT_SECONDS * self._patience
                self._deadline = max(self._deadline, collected)
            elif word == "missing":
                report.missing_program = True
            elif word == "stuck":
                report.stuck.append(rest)
            elif word == "broken":
                report.broken.append(rest)
            elif word == "files":
                report.files_complete = True
                self._deadline = time.monotonic() + _SHUTDOWN_SECONDS * self._patience

    def _next_rescue(self) -> bool:
        """The time is up: takes the next step to learn why; False when there is none left."""
        if self._report.files_complete:
            return False
        if not self._report.timed_out:
            self._report.timed_out = True
            self._console_at_limit = self._console.stat().st_size
            what = "the guest is frozen" if self._report.frozen else "the time limit has passed"
            host.say(what, level=0)
        self._rescue += 1
        if self._rescue >= len(_RESCUES):
            return False
        rescue = _RESCUES[self._rescue]
        host.say(rescue.text)
        if self._rescue == 0:
            self._machine.tell_guest("dump")
        elif self._rescue == 1:
            for key in "wl":
                self._machine.magic_key(key)
        else:
            self._machine.interrupt()
        self._deadline = time.monotonic() + rescue.seconds * self._patience
        return True
