#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the image of ./Dockerfile without a container engine and without a registry, and checks it:
#
#   tests/image/build.sh [--keep FILE]    FILE: also write the image as an OCI archive
#
# Needs root. Installs buildah and mmdebstrap when they are missing. The base image is made from
# Debian's archive ($UBLKD_MIRROR, else the machine's own mirror); it, the compiler cache and
# buildah's storage are kept under ${XDG_CACHE_HOME:-~/.cache}/ublkd/image.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/ublkd/image
readonly base=docker.io/library/debian:trixie-slim
readonly image=localhost/ublkd:test
readonly base_max_age_days=30
export BUILDAH_ISOLATION=chroot

say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }
fail() {
  echo "build.sh: $*" >&2
  exit 1
}
# vfs copies more than overlay, and works everywhere.
bld() { buildah --storage-driver vfs --root "$cache/storage" --runroot "$cache/run" "$@"; }

install_tools() {
  local tool missing=()
  for tool in buildah mmdebstrap; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  [[ ${#missing[@]} -eq 0 ]] && return
  say "installing ${missing[*]}"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null ||
    fail "cannot install ${missing[*]}: check the network and the apt sources"
}

# The base image: a small trixie as a tarball, whole or not there at all.
make_base() {
  local tarball=$cache/trixie-slim.tar container
  if [[ -n $(find "$tarball" -mtime "+$base_max_age_days" 2>/dev/null) ]]; then rm -f "$tarball"; fi
  if [[ ! -f $tarball ]]; then
    say "making the base image from Debian's archive (once in $base_max_age_days days)"
    PYTHONPATH=tests/vm PYTHONDONTWRITEBYTECODE=1 python3 -c \
      'import apt, buildroot; print("\n".join(apt.source_lines(buildroot.suites_of("trixie"))))' \
      >"$cache/sources.list"
    mmdebstrap --quiet --mode=root --variant=minbase --format=tar \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
      --dpkgopt=force-unsafe-io trixie "$tarball.part" "$cache/sources.list"
    mv "$tarball.part" "$tarball"
  elif bld inspect --type image "$base" >/dev/null 2>&1; then
    return
  fi
  container=$(bld from scratch)
  bld add --quiet "$container" "$tarball" / >/dev/null
  bld config --cmd bash "$container"
  bld commit --quiet --rm "$container" "$base" >/dev/null
}

build_image() {
  local version
  version=$(sed -n 's/^project(ublkd VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
  mkdir -p "$cache/ccache"
  say "building the image (log: $cache/build.log)"
  bld bud --pull-never --layers=false --format oci --tag "$image" \
    --volume "$cache/ccache:/ccache" --build-arg COMPILER_LAUNCHER=ccache \
    --build-arg VERSION="$version" --build-arg JOBS="$(nproc)" . >"$cache/build.log" 2>&1 ||
    { tail -40 "$cache/build.log" >&2; fail "the image cannot be built; see $cache/build.log"; }
  # What the name meant before is of no use any more.
  bld rmi --prune --force >/dev/null
}

in_image() { bld run "$1" -- "${@:2}"; }

check_image() {
  local container=$1 root=$2 program
  for program in ublkd ublkd-guard ublkd-csi ublkctl ublkd-uninstall-check; do
    in_image "$container" "$program" --version || fail "$program does not run in the image"
  done
  for program in mkfs.ext4 mkfs.xfs fsck.ext4 resize2fs xfs_growfs mount umount blkid modprobe; do
    in_image "$container" sh -c "command -v $program" >/dev/null ||
      fail "$program is missing in the image"
  done
  for program in gcc g++ cc c++ cpp ld as cmake ninja make protoc; do
    ! in_image "$container" sh -c "command -v $program" >/dev/null 2>&1 ||
      fail "$program is in the image; it must hold no compilers"
  done
  [[ -f $root/usr/src/ublkd/Kbuild ]] || fail "/usr/src/ublkd does not hold the driver's source"
  [[ -z $(find "$root/usr/src/ublkd" -name '*.o' -o -name '*.ko') ]] ||
    fail "/usr/src/ublkd holds what somebody compiled"
  [[ -z $(ls -A "$root/var/lib/apt/lists") ]] || fail "package lists are left in the image"
  [[ -z $(find "$root/usr" -name '*.a' -o -name '*.h' -path '*/include/*') ]] ||
    fail "the image holds development files"
  bld inspect --type image --format '{{.OCIv1.Config.Labels}}' "$image" |
    grep -q 'org.opencontainers.image.version:[0-9]' || fail "the image names no version"
  [[ $(bld inspect --type image --format '{{.OCIv1.Config.Entrypoint}}' "$image") == '[]' ]] ||
    fail "the image has an entrypoint"
}

main() {
  local keep='' container root
  if [[ ${1:-} == --keep ]]; then keep=${2:?build.sh: --keep needs a file}; fi
  [[ $(id -u) -eq 0 ]] || fail "must be root: it makes a root filesystem"
  install_tools
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  make_base
  build_image
  say "checking the image"
  container=$(bld from --pull-never "$image")
  # shellcheck disable=SC2064
  trap "bld umount '$container' >/dev/null 2>&1 || true; bld rm '$container' >/dev/null || true" EXIT
  root=$(bld mount "$container")
  check_image "$container" "$root"
  if [[ -n $keep ]]; then bld push --quiet "$image" "oci-archive:$keep"; fi
  say "the image is good: $(du -sm "$root" | cut -f1) MiB unpacked," \
    "of which ours $(du -cm "$root"/usr/bin/ublk* | tail -1 | cut -f1) MiB"
}

main "$@"
