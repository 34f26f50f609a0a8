# SPDX-License-Identifier: Apache-2.0
#
# The image of a node: ublkd, ublkd-guard, ublkd-csi, ublkctl and ublkd-uninstall-check, with the programs that
# they call.
# There is no entrypoint; a container names the program it runs, as the chart does:
#
#   ublkd --pool NAME=/path --metrics-address 0.0.0.0:9500   the data plane; privileged, needs /dev of the host
#   ublkd-guard                                              ends the wait for an ublkd that stays away; as ublkd
#   ublkd-csi --endpoint unix:///path/csi.sock               the CSI plugin; privileged, needs the kubelet folder
#   ublkctl info                                             the command line; needs ublkd's socket
#   ublkd-uninstall-check                                    refuses while there are volumes; may list PersistentVolumes
#   modprobe ublk_drv                                        loads the driver; needs /lib/modules of the host
#
# /usr/src/ublkd holds the source of the kernel driver. `tests/image/build.sh` builds and checks it.

FROM debian:trixie-slim AS build
# A compiler cache, for those who build often: COMPILER_LAUNCHER=ccache and a folder at /ccache.
ARG COMPILER_LAUNCHER=
ARG JOBS=2
ENV CCACHE_DIR=/ccache DEBIAN_FRONTEND=noninteractive
COPY cmake/build-packages.txt /build-packages.txt
RUN apt-get update -q \
    && grep -v '^#' /build-packages.txt \
       | xargs apt-get install -q -y --no-install-recommends >/dev/null
COPY CMakeLists.txt /src/
COPY cmake /src/cmake
COPY proto /src/proto
COPY daemon /src/daemon
COPY driver/uapi /src/driver/uapi
# The runtime image takes the packages that own the libraries the programs were linked with, so that
# there is no second list to keep.
RUN cmake -S /src -B /build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=OFF \
          -DCMAKE_CXX_COMPILER_LAUNCHER="$COMPILER_LAUNCHER" -DCMAKE_INSTALL_PREFIX=/usr \
    && cmake --build /build --parallel "$JOBS" \
    && DESTDIR=/out cmake --install /build --strip \
    && ldd /out/usr/bin/* | awk '$2 == "=>" { print $3 }' | sort -u \
       | xargs readlink -f | sort -u | xargs dpkg -S | cut -d: -f1 | sort -u >/runtime-packages.txt

FROM debian:trixie-slim
ARG VERSION=unknown
LABEL org.opencontainers.image.title="ublkd" \
      org.opencontainers.image.description="Storage served from user space as /dev/ublkbN, and its CSI plugin" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-only" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /runtime-packages.txt /runtime-packages.txt
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive xargs -a /runtime-packages.txt \
       apt-get install -q -y --no-install-recommends \
         e2fsprogs kmod mount util-linux xfsprogs >/dev/null \
    && rm -rf /runtime-packages.txt /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY driver /usr/src/ublkd
COPY --from=build /out/usr/bin /usr/bin
