// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "daemon/ublk/geometry.h"
#include "daemon/volume/device_factory.h"
#include "daemon/volume/device_record.h"

namespace ublkd::guard {

struct GuardOptions {
  /// Folder of the device records; it may not be there yet.
  std::string records_dir;
  /// Of the running boot.
  std::string boot_id;
};

/// Takes over the devices of an ublkd that stays away and answers their users with errors. Whether
/// one is away it is told: it looks only when it is asked to. One thread.
class Guard {
 public:
  /// Time that has passed since some moment; never goes back.
  using Clock = std::function<absl::Duration()>;

  /// `factory` outlives the guard.
  Guard(GuardOptions options, volume::DeviceFactory& factory, Clock clock);
  /// Lets go.
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  enum class Policy {
    /// Each device when it has waited for its fail_after, which counts from the first look that
    /// found it waiting.
    kAsRecorded,
    /// Every device that waits, at once.
    kNow,
  };

  /// Nobody serves: looks at all devices and takes over those whose time has come. What cannot be
  /// taken over is logged and tried again at the next look.
  void Look(Policy policy);

  /// Somebody serves: gives the devices back, whose users then wait for that server, and forgets
  /// how long the others have waited. False when the driver does not confirm it for all of them.
  bool LetGo();

  /// Devices that are answered with errors.
  size_t held() const { return held_.size(); }

  /// Some device of ours is open or mounted, as far as that can be seen from here, or it cannot be
  /// told.
  bool AnyInUse();

 private:
  struct Waiting {
    absl::Duration since;
    /// Of the server that left it.
    uint64_t generation = 0;
    /// Why it could not be taken over, as logged last.
    std::string said;
  };
  struct Due {
    volume::DeviceRecord record;
    ublk::Geometry geometry;
    absl::StatusOr<std::shared_ptr<volume::ServedDevice>> device = absl::UnknownError("");
  };

  struct Records {
    /// Of devices of this boot.
    std::vector<volume::DeviceRecord> ours = {};
    /// Ids of those that cannot be read.
    std::vector<uint32_t> unreadable = {};
    /// There are no others.
    bool complete = false;
  };
  Records ReadRecords();
  void Complain(const std::string& what, const absl::Status& status);
  void DropEnded();
  std::optional<Due> LookAt(const volume::DeviceRecord& record, Policy policy);
  void TakeOver(Due& due);
  void Report(const Due& due);

  const GuardOptions options_;
  volume::DeviceFactory& factory_;
  const Clock clock_;
  /// By id.
  std::map<uint32_t, Waiting> waiting_;
  std::map<uint32_t, std::shared_ptr<volume::ServedDevice>> held_;
  /// What was complained about last, by what it is about.
  std::map<std::string, std::string> complaints_;
};

}  // namespace ublkd::guard
