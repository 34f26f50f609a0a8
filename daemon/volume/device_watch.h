// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "daemon/ublk/stats.h"
#include "daemon/volume/device.h"

namespace ublkd::volume {

/// What the watch has of a device of the server.
struct WatchedDevice {
  uint32_t id = 0;
  /// Both tell a device from an earlier one with its id, whose counters were others.
  absl::Time created_at;
  uint64_t generation = 0;
  DeviceSpec spec;
  /// ublk::Device::RequestCount, read before Stats is called.
  uint64_t requests = 0;
  std::function<ublk::DeviceStats()> stats;
  std::function<void()> give_memory_back;
};

/// Tells in the log when a device begins to have I/O errors or its backend to hang, and when that
/// is over: one line each, however many requests are concerned. Has those that nobody uses any more
/// give their memory back. All that it looks at is counters. One thread.
class DeviceWatch {
 public:
  struct Options {
    /// A backend that has had a request for so long does not answer; InfiniteDuration: never said.
    absl::Duration stuck_after = absl::Seconds(30);
    /// Errors are over when there was none for so long.
    absl::Duration errors_over_after = absl::Seconds(30);
    /// A device that had no request for so long gives its memory back.
    absl::Duration idle_after = absl::Seconds(30);
  };

  explicit DeviceWatch(const Options& options) : options_(options) {}

  /// Compares with the look before. All devices that are served, each time; of those that nobody
  /// uses the counters are not read.
  void Look(const std::vector<WatchedDevice>& devices, absl::Time now);

 private:
  /// What is known of a device since it was made or taken over.
  struct Seen {
    absl::Time created_at;
    uint64_t generation = 0;
    /// At that count no request was held, and there is nothing more to say: until another request
    /// comes there will not be.
    std::optional<uint64_t> quiet_at;
    /// When it gives its memory back, if it is quiet until then.
    absl::Time give_back_at = absl::InfiniteFuture();
    std::array<uint64_t, ublk::kOpCount> errors = {};
    /// Errors since they began; 0 while there are none.
    uint64_t new_errors = 0;
    absl::Time last_error;
    /// The longest that a request has waited since the backend was found not to answer.
    absl::Duration stuck;
  };

  void LookForErrors(const WatchedDevice& device, const ublk::DeviceStats& stats, Seen& seen,
                     absl::Time now) const;
  void LookForStuck(const WatchedDevice& device, const ublk::DeviceStats& stats, Seen& seen) const;

  const Options options_;
  /// By id.
  std::map<uint32_t, Seen> seen_;
};

}  // namespace ublkd::volume
