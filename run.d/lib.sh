# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the verbs share. Read by `. run.d/lib.sh` from the top of the checkout.

# step TEXT...: says what begins now, with the time since the verb began.
step() {
  printf '\n\033[1m[%3ds] %s\033[0m\n' "$SECONDS" "$*"
}
if [[ ! -t 1 ]]; then
  step() { printf '\n[%3ds] %s\n' "$SECONDS" "$*"; }
fi

# fail TEXT...: ends the verb with one sentence.
fail() {
  echo "run: $*" >&2
  exit 1
}

# usage_if_asked "$@": prints the comment at the head of the verb for -h and --help.
usage_if_asked() {
  local argument
  for argument in "$@"; do
    case $argument in
      --) return ;;
      -h | --help)
        sed -n '/^# does:/,/^[^#]/{s/^# does: /usage: .\/run /p;t;s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    esac
  done
}

# install_packages PACKAGE...: installs those Debian packages that are missing, and says so.
install_packages() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  [[ ${#missing[@]} -eq 0 ]] && return
  command -v apt-get >/dev/null ||
    fail "needs the packages ${missing[*]}: this is no Debian; install them by hand"
  [[ $(id -u) -eq 0 ]] ||
    fail "needs the packages ${missing[*]}: run 'apt-get install ${missing[*]}' as root"
  step "Installing ${#missing[@]} Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null || fail "apt-get update failed: check the network and the apt sources"
  apt-get install -q -y --no-install-recommends "${missing[@]}" >"${TMPDIR:-/tmp}/ublkd-apt.log" 2>&1 ||
    fail "apt-get could not install ${missing[*]}; see ${TMPDIR:-/tmp}/ublkd-apt.log"
}

# install_build_packages: what cmake/build-packages.txt lists, and what the tests need on the machine.
install_build_packages() {
  local packages
  mapfile -t packages < <(grep -v '^#' cmake/build-packages.txt)
  install_packages "${packages[@]}" openssl python3
}

# build PRESET [TARGET...]: configures when needed and builds.
build() {
  local preset=$1
  shift
  install_build_packages
  export CCACHE_DIR=${CCACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ublkd/ccache}
  # Checkouts at other paths share what was compiled.
  export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=yes
  step "Building ($preset)"
  [[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" >"${TMPDIR:-/tmp}/ublkd-cmake.log" 2>&1 ||
    { cat "${TMPDIR:-/tmp}/ublkd-cmake.log" >&2; fail "cmake could not configure"; }
  cmake --build --preset "$preset" -- "$@"
}
