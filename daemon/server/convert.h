// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "daemon/volume/device.h"
#include "daemon/volume/pool.h"
#include "daemon/volume/volume.h"
#include "daemon/volume/volume_manager.h"
#include "ublkd/v1/device.pb.h"
#include "ublkd/v1/volume.pb.h"

/// Between the messages of the API and what volume/ works with. Requests that cannot be expressed
/// are INVALID_ARGUMENT, naming the field.
namespace ublkd::server {

absl::StatusOr<volume::VolumeRequest> ToVolumeRequest(const v1::CreateVolumeRequest& request);
absl::StatusOr<volume::Format::State> ToFormatState(v1::Format::State state,
                                                    absl::string_view field);
absl::StatusOr<volume::Format> ToFormat(const v1::Format& format);
target::IoLimits ToLimits(const v1::DeviceLimits& limits);
absl::StatusOr<volume::DeviceSpec> ToDeviceSpec(const v1::DeviceSpec& spec);

v1::Volume FromVolume(const volume::Volume& volume, std::optional<volume::Attachment> attached);
v1::Pool FromPool(const volume::Pool& pool, const volume::PoolCapacity& capacity);
v1::Device FromDevice(const volume::DeviceView& view);

}  // namespace ublkd::server
