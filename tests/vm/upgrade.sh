#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# upgrade.sh [COMMIT [KERNEL...]]: builds the ublkd of COMMIT beside this checkout's, and lets both
# serve the same devices in turn. See ./run test --help.
set -euo pipefail
. run.d/lib.sh

commit=$(git rev-parse --verify --quiet "${1:-HEAD~1}^{commit}") || fail "there is no commit ${1:-HEAD~1}"
kernels=("${@:2}")
[[ ${#kernels[@]} -gt 0 ]] || kernels=(6.1 6.12 7.x)
kills=${UBLKD_KILLS:-8}

work=$PWD/build/upgrade
mkdir -p "$work"
rm -rf "$work/source"
git worktree prune
git worktree add --quiet --force --detach "$work/source" "$commit"
trap 'git worktree remove --force "$work/source"' EXIT
step "Building the ublkd of $(git log -1 --format='%h %s' "$commit")"
(
  cd "$work/source"
  # shellcheck source=run.d/lib.sh
  . run.d/lib.sh
  build release ublkd
)
cp "$work/source/build/release/daemon/server/ublkd" "$work/ublkd-other"
tests/vm/payload.sh build/release "$work/payload" demo vm-tests

for kernel in "${kernels[@]}"; do
  step "Upgrading and going back on $kernel"
  options=() environment=(UBLKD_OTHER=/opt/other/ublkd "UBLKD_KILLS=$kills")
  # Old, or without: ours. Newer kernels bring a good one.
  if [[ $kernel != 7.x ]]; then
    tests/vm/vm.py kmod "$kernel" driver "$work/module-$kernel" >/dev/null
    options+=(--add "$work/module-$kernel:/opt/ublk_drv")
    environment+=(UBLK_DRV_KO=/opt/ublk_drv/ublk_drv.ko)
  fi
  tests/vm/vm.py run "$kernel" --timeout 900 --smp 4 --scratch 3G --payload "$work/payload" \
    --add "$work/ublkd-other:/opt/other/ublkd" "${options[@]}" --out "$work/out-$kernel" \
    -- env "${environment[@]}" /opt/ublkd/libexec/ublkd-tests/storage_test \
    --gtest_filter='Death.UpgradedAndBack*'
done
step "Done"
