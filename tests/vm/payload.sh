#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# payload.sh BUILD_DIR PAYLOAD_DIR COMPONENT...: puts the programs of a build, and its COMPONENTs of
# tests (vm-tests, demo), where VMs see them as /opt/ublkd.
set -euo pipefail

build=$1
payload=$2
shift 2
rm -rf "$payload"
cmake --install "$build" --strip --prefix "$payload" >/dev/null
for component in "$@"; do
  cmake --install "$build" --strip --prefix "$payload" --component "$component" >/dev/null
done
du -sh "$payload"
