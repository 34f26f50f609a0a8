# SPDX-License-Identifier: Apache-2.0
"""Follows one guest from its start to its end: passes its output on and keeps the time limit."""

from __future__ import annotations

import os
import selectors
import sys
import time
from dataclasses import dataclass, field
from typing import BinaryIO

import host
import machine

_CHUNK_BYTES = 1 << 16
_TICK_SECONDS = 0.5
_UNDISTURBED_SECONDS = 20.0  # At most; the clocks are set after two or three.
_BOOT_SECONDS = 180.0  # Some five seconds are enough on an idle machine.
_COLLECT_SECONDS = 60.0
_SHUTDOWN_SECONDS = 15.0


@dataclass
class Report:
    """What became of a run."""

    status: int | None = None
    started_after: float | None = None
    timed_out: bool = False
    missing_program: bool = False
    files_complete: bool = False
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

    def __init__(self, spec: machine.Spec, limit_seconds: float) -> None:
        self._folder = spec.folder
        self._console = spec.folder / machine.CONSOLE_LOG
        self._console_shown = 0
        self._calm = False
        self._begin = time.monotonic()
        self._limit_seconds = limit_seconds
        self._deadline = self._begin + _BOOT_SECONDS
        self._machine = machine.Machine(spec)
        self._report = Report()
        self._lines = b""
        self._rescue = -1
        self._console_at_limit: int | None = None
        self._selector = selectors.DefaultSelector()
        for name, channel in self._machine.channels.items():
            self._selector.register(channel, selectors.EVENT_READ, name)

    def follow(self) -> Report:
        """Returns when the guest has ended, by itself or by the time limit of boot or program."""
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
            self._calm_down()
            if time.monotonic() > self._deadline and not self._next_rescue():
                break
        while self._pump(files, 0):
            pass
        self._show_console()

    def _calm_down(self) -> None:
        """Ends the emulator's precedence when the guest has set its clocks."""
        if self._calm:
            return
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        late = time.monotonic() > self._begin + _UNDISTURBED_SECONDS
        if late or machine.CLOCKS_SET in text:
            self._machine.calm()
            self._calm = True

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
                self._deadline = max(self._deadline, time.monotonic() + _COLLECT_SECONDS)
            elif word == "missing":
                report.missing_program = True
            elif word == "stuck":
                report.stuck.append(rest)
            elif word == "broken":
                report.broken.append(rest)
            elif word == "files":
                report.files_complete = True
                self._deadline = time.monotonic() + _SHUTDOWN_SECONDS

    def _next_rescue(self) -> bool:
        """The time is up: takes the next step to learn why; False when there is none left."""
        if self._report.files_complete:
            return False
        if not self._report.timed_out:
            self._report.timed_out = True
            self._console_at_limit = self._console.stat().st_size
            host.say("the time limit has passed", level=0)
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
        self._deadline = time.monotonic() + rescue.seconds
        return True
