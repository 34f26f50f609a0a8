// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/ctl/client.h"
#include "ublkd/v1/device.pb.h"
#include "ublkd/v1/volume.pb.h"

namespace ublkd::ctl {

/// Reads "3", "ublkb3" or "/dev/ublkb3"; UsageError for anything else.
absl::StatusOr<uint32_t> ParseDeviceId(const std::string& text);

/// The devices of this ublkd, with `all` also those that others made, in the order of their ids.
absl::StatusOr<std::vector<v1::Device>> ListDevices(Client& client, bool all = false);
/// All volumes of `pool`, or of all pools when it is empty, fetched page by page.
absl::StatusOr<std::vector<v1::Volume>> ListVolumes(Client& client, const std::string& pool);
/// All pools.
absl::StatusOr<std::vector<v1::Pool>> ListPools(Client& client);

}  // namespace ublkd::ctl
