// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/in_flight.h"

#include "absl/strings/str_cat.h"
#include "daemon/csi/child.h"

namespace ublkd::csi {

absl::StatusOr<InFlight::Entry> InFlight::Enter(const std::string& volume) {
  const std::lock_guard lock(mutex_);
  if (keys_.count(volume) != 0) {
    return absl::AbortedError(
        absl::StrCat("another call for volume ", volume, " is running; try again later"));
  }
  if (HasStuckChild(volume)) {
    return absl::AbortedError(
        absl::StrCat("an earlier call for volume ", volume,
                     " hangs in the kernel; look at the state of its device, then try again"));
  }
  keys_.insert(volume);
  return Entry(*this, volume);
}

void InFlight::Remove(const std::string& key) {
  const std::lock_guard lock(mutex_);
  keys_.erase(key);
}

}  // namespace ublkd::csi
