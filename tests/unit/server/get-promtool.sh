#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of promtool, Prometheus' own judge of a scrape, which it gets when it is not there
# yet: $PROMTOOL, the one in $PATH, or that of Debian's package `prometheus`, kept under
# ${XDG_CACHE_HOME:-~/.cache}/ublkd/tools. The package is not installed: that would start a server.
set -euo pipefail

readonly tools=${XDG_CACHE_HOME:-$HOME/.cache}/ublkd/tools
readonly promtool=$tools/promtool

fail() {
  echo "get-promtool.sh: $*" >&2
  exit 1
}

# Checked by running: a file that was cut short does not.
works() { "$1" --version >/dev/null 2>&1; }

if [[ -n ${PROMTOOL:-} ]]; then
  works "$PROMTOOL" || fail "PROMTOOL=$PROMTOOL does not run"
  echo "$PROMTOOL"
  exit 0
fi
if works promtool; then
  command -v promtool
  exit 0
fi

if ! works "$promtool"; then
  mkdir -p "$tools"
  exec 9>"$tools/lock"
  flock 9
  if ! works "$promtool"; then
    work=$(mktemp -d "$tools/new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    get() { (cd "$work" && apt-get download -q prometheus) >"$work/log" 2>&1; }
    # Only root may renew the lists of packages.
    get || { { [[ $(id -u) -ne 0 ]] || apt-get update -q >/dev/null; } && get; } ||
      fail "cannot get the Debian package prometheus: check the network and the apt sources; $(tail -n 1 "$work/log")"
    dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -xf - -C "$work" ./usr/bin/promtool
    works "$work/usr/bin/promtool" || fail "promtool of Debian's prometheus does not run on this machine"
    mv "$work/usr/bin/promtool" "$promtool"
  fi
fi
echo "$promtool"
