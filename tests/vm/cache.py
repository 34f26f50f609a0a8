# SPDX-License-Identifier: Apache-2.0
"""Things that are slow to make and kept between runs.

An entry is a folder whose `.manifest.json`, written last, says what it was made from (its key) and
what is in it. Two runs may use and build entries at the same time: who reads an entry holds a
shared lock on it until the process ends, who builds it holds an exclusive one, and a new entry
takes the place of the old one by a rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import IO, Any, Callable

import host

_MANIFEST = ".manifest.json"
_UNUSED_DAYS = 14
_SECONDS_PER_DAY = 24 * 60 * 60
_held: dict[tuple[str, str], IO[str]] = {}


def root() -> Path:
    """The folder of all caches: ${XDG_CACHE_HOME:-~/.cache}/ublkd."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base).resolve() / "ublkd"
    if any(char.isspace() or char == ":" for char in str(path)):
        raise host.Failure(
            f"using the cache folder {path}: make and QEMU can't take a path with a blank or "
            "a colon; set XDG_CACHE_HOME to another one"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest_text(*parts: str) -> str:
    """A short name for some texts: the same for the same texts."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() + b"\0")
    return whole.hexdigest()[:16]


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(folder: Path, contents: bool) -> str:
    """One checksum over all files below a folder: names, sizes and times, or names and contents."""
    whole = hashlib.sha256()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        # Whether a link counts as a folder depends on the machine, when its target is absolute.
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted(names + links):
            path = Path(parent, name)
            if path == folder / _MANIFEST:
                continue
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode):
                detail = os.readlink(path)
            elif contents and stat.S_ISREG(info.st_mode):
                detail = digest_file(path)
            else:
                detail = f"{info.st_size} {info.st_mtime_ns}"
            whole.update(f"{path.relative_to(folder)}\0{detail}\0".encode())
    return whole.hexdigest()


def manifest(entry: Path) -> dict[str, Any] | None:
    """What an entry says about itself, or None when it is not there or never was finished."""
    try:
        return json.loads((entry / _MANIFEST).read_text())
    except (OSError, ValueError):
        return None


def intact(entry: Path, key: Any, contents: bool = False) -> bool:
    """Whether an entry was made from this key and is as it was when it was made."""
    seen = manifest(entry)
    if seen is None or seen.get("key") != key:
        return False
    kind = "contents" if contents else "tree"
    return seen.get(kind) == digest_tree(entry, contents)


def _open_lock(kind: str, name: str) -> IO[str]:
    folder = root() / "locks"
    folder.mkdir(exist_ok=True)
    return (folder / f"{kind}-{name}").open("a")


def _lock_exclusive(lock: IO[str], what: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        host.say(f"waiting for another run that uses {what}")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _replace(entry: Path, key: Any, build: Callable[[Path], None]) -> None:
    """Builds a new folder beside the entry and puts it in the entry's place."""
    fresh = entry.with_name(f".new-{entry.name}")
    old = entry.with_name(f".old-{entry.name}")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    build(fresh)
    facts = {
        "key": key,
        "tree": digest_tree(fresh, contents=False),
        "contents": digest_tree(fresh, contents=True),
    }
    (fresh / _MANIFEST).write_text(json.dumps(facts, indent=1))
    if entry.exists():
        entry.rename(old)
    fresh.rename(entry)
    shutil.rmtree(old, ignore_errors=True)


def obtain(
    kind: str,
    name: str,
    key: Any,
    build: Callable[[Path], None],
    stale_ok: bool = False,
) -> Path:
    """The folder <root>/<kind>/<name>, made by `build(folder)` unless it is there and intact.

    The entry can't change while this process lives. With stale_ok an older intact entry which
    another run is using right now is taken as it is, instead of waiting for that run.
    """
    entry = root() / kind / name
    # One lock for each entry: a second one would wait for our own first.
    lock = _held.setdefault((kind, name), _open_lock(kind, name))
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not intact(entry, key):
        seen = manifest(entry)
        if stale_ok and seen is not None and intact(entry, seen["key"]):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_SH)
                return entry
        else:
            _lock_exclusive(lock, f"{kind} {name}")
        if not intact(entry, key):
            seen = manifest(entry)
            if seen is not None and seen.get("key") == key:
                host.say(f"{entry} was changed since it was made; making it again")
            entry.parent.mkdir(parents=True, exist_ok=True)
            _replace(entry, key, build)
            _drop_unused(kind, name)
        fcntl.flock(lock, fcntl.LOCK_SH)
    os.utime(lock.name)
    return entry


def existing(kind: str, name: str) -> Path | None:
    """An entry as it is, whatever it was made from, or None when there is no intact one.

    Like that of obtain(), it can't change while this process lives.
    """
    entry = root() / kind / name
    lock = _held.setdefault((kind, name), _open_lock(kind, name))
    fcntl.flock(lock, fcntl.LOCK_SH)
    seen = manifest(entry)
    if seen is None or not intact(entry, seen["key"]):
        return None
    os.utime(lock.name)
    return entry


def check_all() -> list[Path]:
    """Reads every byte of every entry; removes and returns the damaged ones."""
    damaged = []
    for path in sorted(root().glob(f"*/*/{_MANIFEST}")):
        entry = path.parent
        if entry.name.startswith("."):
            continue
        with _open_lock(entry.parent.name, entry.name) as lock:
            _lock_exclusive(lock, f"{entry.parent.name} {entry.name}")
            seen = manifest(entry)
            if seen is None or not intact(entry, seen["key"], contents=True):
                shutil.rmtree(entry, ignore_errors=True)
                damaged.append(entry)
    return damaged


def _drop_unused(kind: str, keep: str) -> None:
    """Removes entries of a kind that nobody used for two weeks."""
    for entry in (root() / kind).iterdir():
        if entry.name == keep or entry.name.startswith("."):
            continue
        with _open_lock(kind, entry.name) as lock:
            if time.time() - os.stat(lock.name).st_mtime < _UNUSED_DAYS * _SECONDS_PER_DAY:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(entry, ignore_errors=True)


class Mutex:
    """A named lock between processes for a `with` block."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._lock = _open_lock("mutex", self._name)
        _lock_exclusive(self._lock, self._name)

    def __exit__(self, *_: object) -> None:
        self._lock.close()
