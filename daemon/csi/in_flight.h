// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "absl/status/statusor.h"

namespace ublkd::csi {

/// The volumes for which a call is running. A second call for a volume is turned away at once
/// instead of queued: kubelet gives up after two minutes and tries again anyway.
class InFlight {
 public:
  /// Frees the volume when it is destroyed.
  class Entry {
   public:
    Entry(InFlight& owner, std::string key) : owner_(&owner), key_(std::move(key)) {}
    Entry(Entry&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), key_(std::move(other.key_)) {}
    Entry& operator=(Entry&&) = delete;
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    ~Entry() {
      if (owner_ != nullptr) owner_->Remove(key_);
    }

   private:
    InFlight* owner_;
    std::string key_;
  };

  /// ABORTED when a call for `volume` is running, or a child of an earlier one still hangs.
  absl::StatusOr<Entry> Enter(const std::string& volume);

 private:
  void Remove(const std::string& key);

  std::mutex mutex_;
  std::set<std::string> keys_;
};

}  // namespace ublkd::csi
