# shellcheck shell=sh
# Loads the kernel driver, or says in one sentence why it is not there. The arguments are the
# module's parameters.
modules=${MODULES:-/lib/modules}
loaded=${LOADED:-/sys/module/ublk_drv}
if [ -e "$loaded" ]; then
  echo "load-driver: ublk_drv is loaded already"
  exit 0
fi
release=$(uname -r)
if [ ! -d "$modules/$release" ]; then
  echo "load-driver: the node has no $modules/$release: the modules of its running kernel were removed; reboot the node" >&2
  exit 1
fi
if [ -z "$(modinfo -k "$release" -n ublk_drv 2>/dev/null)" ]; then
  echo "load-driver: the node's kernel $release has no module ublk_drv: install the driver from /usr/src/ublkd of this image on the node, or the distribution's package of extra modules" >&2
  exit 1
fi
if reason=$(modprobe ublk_drv "$@" 2>&1); then
  echo "load-driver: ublk_drv is loaded"
  exit 0
fi
case $reason in
  *"Key was rejected"* | *"Required key not available"*)
    remedy="the kernel takes signed modules only: sign ublk_drv and enrol its key with mokutil" ;;
  *"Operation not permitted"*)
    remedy="the kernel is locked down or the container may not load modules: look at the node's kernel log" ;;
  *"Exec format error"* | *"nvalid module format"*)
    remedy="the module was built for another kernel: rebuild it for $release" ;;
  *) remedy="look at the node's kernel log" ;;
esac
echo "load-driver: ublk_drv cannot be loaded: $reason; $remedy" >&2
exit 1
