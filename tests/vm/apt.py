# SPDX-License-Identifier: Apache-2.0
"""Debian packages of any suite, through a private apt configuration.

Nothing here reads or changes the package lists, sources or pins of the machine itself; the mirror's
address is the one thing taken from it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import cache
import host

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_LOCK_TIMEOUT_SECONDS = 300
_NETWORK_REMEDY = "check the network, or name a mirror in $UBLKD_MIRROR"


def _configured_uris() -> list[str]:
    """All archive addresses in the machine's own apt sources, in both file formats."""
    uris: list[str] = []
    etc = Path("/etc/apt")
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            for value in re.findall(r"^URIs:\s*(.+)$", text, re.MULTILINE):
                uris += value.split()
        elif path.suffix == ".list":
            uris += re.findall(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, re.MULTILINE)
    return [uri.rstrip("/") for uri in uris]


def mirror() -> str:
    """The Debian mirror: $UBLKD_MIRROR, else the machine's own, else Debian's public one."""
    chosen = os.environ.get("UBLKD_MIRROR")
    if chosen:
        return chosen.rstrip("/")
    return next((uri for uri in _configured_uris() if uri.endswith("/debian")), _DEFAULT_MIRROR)


def security_mirror() -> str:
    """The security archive that belongs to mirror()."""
    if os.environ.get("UBLKD_MIRROR") is None:
        for uri in _configured_uris():
            if uri.endswith("/debian-security"):
                return uri
    return mirror().removesuffix("/debian") + "/debian-security"


def source_lines(suites: list[str]) -> list[str]:
    """The sources.list lines for suites such as `bookworm` or `bookworm-security`."""
    if not _KEYRING.exists():
        raise host.Failure(
            f"reading Debian's archive: {_KEYRING} is missing; "
            "install the package debian-archive-keyring"
        )
    lines = []
    for suite in suites:
        base = security_mirror() if suite.endswith("-security") else mirror()
        lines.append(f"deb [signed-by={_KEYRING}] {base} {suite} main")
    return lines


@dataclass(frozen=True)
class Package:
    """One version of a package as the archive offers it."""

    name: str
    version: str
    depends: str


class Archive:
    """Some suites of the archive with their own package lists.

    `prefer` names the suite that wins even over a newer version in another one; backports need it.
    """

    def __init__(self, name: str, suites: list[str], prefer: str | None = None) -> None:
        self._suites = suites
        self._prefer = prefer
        self._lock = f"apt-{name}"
        self._dir = cache.root() / "apt" / name

    def options(self, own_status: bool = True) -> list[str]:
        """apt's options; own_status=False keeps the machine's package database (for installing)."""
        pairs = {
            "Dir::Etc::SourceList": self._dir / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": self._dir / "lists",
            "Dir::Cache": self._dir / "cache",
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::Check-Valid-Until": "false",
        }
        if self._prefer:
            pairs["APT::Default-Release"] = self._prefer
        if own_status:
            pairs["Dir::State::status"] = self._dir / "status"
        return [word for key, value in pairs.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Reads the suites' package lists from the network."""
        with cache.Mutex(self._lock):
            self._update()

    def _update(self) -> None:
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._dir / folder).mkdir(parents=True, exist_ok=True)
        (self._dir / "status").touch()
        (self._dir / "sources.list").write_text("\n".join(source_lines(self._suites)) + "\n")
        host.run(
            ["apt-get", *self.options(), "-qq", "-o", "APT::Update::Error-Mode=any", "update"],
            f"reading the package lists of {' and '.join(self._suites)}",
            _NETWORK_REMEDY,
        )

    def show(self, name: str) -> Package:
        """The version of a package that the preferred suite offers."""
        text = host.run(
            ["apt-cache", *self.options(), "--no-all-versions", "show", name],
            f"looking for package {name} in {' and '.join(self._suites)}",
            "check that the mirror carries these suites",
        )
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", text, re.MULTILINE))
        return Package(fields["Package"], fields["Version"], fields.get("Depends", ""))

    def download(self, packages: list[Package], folder: Path) -> list[Path]:
        """Fetches package files of exact versions into a folder."""
        before = set(folder.glob("*.deb"))
        wanted = [f"{package.name}={package.version}" for package in packages]
        with cache.Mutex(self._lock):
            host.run(
                ["apt-get", *self.options(), "-qq", "download", *wanted],
                f"downloading {', '.join(wanted)}",
                _NETWORK_REMEDY,
                cwd=folder,
            )
        return sorted(set(folder.glob("*.deb")) - before)

    def install(self, names: list[str]) -> None:
        """Installs packages on this machine; its own apt configuration stays as it is."""
        options = self.options(own_status=False)
        words = ["install", "-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]
        words += ["-o", f"DPkg::Lock::Timeout={_LOCK_TIMEOUT_SECONDS}"]
        host.run(
            ["apt-get", *options, *words, *names],
            f"installing {' '.join(names)}",
            _NETWORK_REMEDY,
            env={"DEBIAN_FRONTEND": "noninteractive", "APT_LISTCHANGES_FRONTEND": "none"},
        )


def unpack(package_files: list[Path], folder: Path) -> None:
    """Unpacks package files into a folder without running their scripts."""
    for path in package_files:
        host.run(
            ["dpkg", "-x", path, folder],
            f"unpacking {path.name}",
            "delete the cache folder and try again",
        )
