// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/time/time.h"
#include "daemon/ublk/stats.h"
#include "daemon/volume/device.h"

namespace ublkd::volume {

/// Tells in the log when a device begins to have I/O errors or its backend to hang, and when that
/// is over: one line each, however many requests are concerned. It only looks at counters. One
/// thread.
class DeviceWatch {
 public:
  struct Options {
    /// A backend that has had a request for so long does not answer; InfiniteDuration: never said.
    absl::Duration stuck_after = absl::Seconds(30);
    /// Errors are over when there was none for so long.
    absl::Duration errors_over_after = absl::Seconds(30);
  };

  explicit DeviceWatch(const Options& options) : options_(options) {}

  /// Compares with the look before. All devices of the server, each time.
  void Look(const std::vector<DeviceSnapshot>& devices, absl::Time now);

 private:
  /// What is known of a device since it was made or taken over.
  struct Seen {
    absl::Time created_at;
    std::array<uint64_t, ublk::kOpCount> errors = {};
    /// Errors since they began; 0 while there are none.
    uint64_t new_errors = 0;
    absl::Time last_error;
    /// The longest that a request has waited since the backend was found not to answer.
    absl::Duration stuck;
  };

  void LookForErrors(const DeviceSnapshot& device, Seen& seen, absl::Time now) const;
  void LookForStuck(const DeviceSnapshot& device, Seen& seen) const;

  const Options options_;
  /// By id.
  std::map<uint32_t, Seen> seen_;
};

}  // namespace ublkd::volume
