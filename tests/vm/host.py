# SPDX-License-Identifier: Apache-2.0
"""The machine the harness runs on: failures, progress lines and child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, Mapping, Sequence
from contextlib import contextmanager

_START = time.monotonic()
_LOG_TAIL_LINES = 15


class Failure(Exception):
    """Something went wrong; the text is one sentence: what, why, what to do."""


class Output:
    """Where progress goes and how much of it: 0 is quiet, 1 is normal, 2 is verbose."""

    level = 1


def say(text: str, level: int = 1) -> None:
    """Prints one progress line with the time since the start, on stderr."""
    if Output.level >= level:
        print(f"[vm {time.monotonic() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str, level: int = 1) -> Iterator[None]:
    """Announces a step that takes long, and says at its end how long it took."""
    say(f"{text} ...", level)
    begin = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - begin:.1f} s", level)


def run(
    argv: Sequence[str | Path],
    what: str,
    remedy: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Runs a program and returns its stdout.

    Raises Failure built from `what` was being done, the last lines of output and the `remedy`.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    except OSError as error:
        raise Failure(f"{what}: {words[0]} does not start ({error.strerror}); {remedy}") from error
    if done.returncode != 0:
        tail = (done.stdout + done.stderr).strip().splitlines()[-_LOG_TAIL_LINES:]
        for line in tail:
            print(f"  {line}", file=sys.stderr)
        raise Failure(f"{what}: {words[0]} ended with status {done.returncode}; {remedy}")
    return done.stdout


def find_program(name: str) -> str | None:
    """The path of a program, also when only root's folders have it; None when it is missing."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    for folder in [*folders, "/usr/local/sbin", "/usr/sbin", "/sbin"]:
        path = Path(folder) / name
        if folder and path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def need_root(what: str) -> None:
    """Raises Failure unless this process is root."""
    if os.geteuid() != 0:
        raise Failure(f"{what}: needs root and this is user {os.geteuid()}; run it with sudo")


def os_codename() -> str:
    """The Debian suite of this machine, such as `bookworm`."""
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    raise Failure(
        "finding this machine's suite: /etc/os-release has no VERSION_CODENAME; "
        "use Debian bookworm or trixie"
    )
