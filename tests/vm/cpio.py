# SPDX-License-Identifier: Apache-2.0
"""Writes a cpio archive of the `newc` kind, as the kernel unpacks it at boot."""

from __future__ import annotations

import stat
from pathlib import Path

_ALIGNMENT_BYTES = 4
_TRAILER = "TRAILER!!!"


class Archive:
    """An archive in memory; folders are made on the way, everything belongs to root."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0
        self._folders: set[str] = set()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % _ALIGNMENT_BYTES)

    def _entry(self, name: str, mode: int, body: bytes = b"") -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = [self._inode, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(encoded), 0]
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._pad()
        self._data += body
        self._pad()

    def folder(self, name: str) -> None:
        """Adds a folder and those above it."""
        name = name.strip("/")
        if not name or name in self._folders:
            return
        self.folder(name.rpartition("/")[0])
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, body: bytes, mode: int = 0o644) -> None:
        """Adds a file."""
        name = name.strip("/")
        self.folder(name.rpartition("/")[0])
        self._entry(name, stat.S_IFREG | mode, body)

    def link(self, name: str, target: str) -> None:
        """Adds a symbolic link."""
        name = name.strip("/")
        self.folder(name.rpartition("/")[0])
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def write(self, path: Path) -> None:
        """Ends the archive and writes it out."""
        self._entry(_TRAILER, 0)
        path.write_bytes(self._data)
