// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "daemon/ctl/table.h"
#include "ublkd/v1/device.pb.h"
#include "ublkd/v1/volume.pb.h"

/// What ublkd answers, put in words for people.
namespace ublkd::ctl {

/// "volume fast/db", "file /srv/disk.img" or "null".
std::string DescribeTarget(const v1::DeviceSpec& spec);
/// "/dev/ublkb3 (volume fast/db)".
std::string DescribeDevice(const v1::Device& device);
/// What --buffers takes and tables show.
inline constexpr std::array<std::pair<const char*, v1::BufferMode>, 3> kBufferModes = {{
    {"copy", v1::BUFFER_MODE_COPY},
    {"user-copy", v1::BUFFER_MODE_USER_COPY},
    {"zero-copy", v1::BUFFER_MODE_ZERO_COPY},
}};

/// "1000 IOPS (burst 100), 10 MiB/s (burst 1 MiB)" or "none".
std::string DescribeLimits(const v1::DeviceLimits& limits);
/// Whether a volume has grown and its disk has not, because its driver cannot do that.
bool HasSmallerDisk(const v1::Volume& volume);
/// The path of the device that a volume is attached as, or "-".
std::string DescribeAttachment(const v1::Volume& volume);

Table DeviceTable(const std::vector<v1::Device>& devices);
Details DeviceDetails(const v1::Device& device);
Table VolumeTable(const std::vector<v1::Volume>& volumes);
Details VolumeDetails(const v1::Volume& volume);
Table PoolTable(const std::vector<v1::Pool>& pools);
Details ServerDetails(const v1::ServerInfo& info);

}  // namespace ublkd::ctl
