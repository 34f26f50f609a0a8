// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace ublkd::volume {

/// The things that calls are working on. A second call for the same thing is refused at once and
/// never waits. Any thread.
class InFlight {
 public:
  /// Keeps others away from a thing until it is destroyed. Must not outlive its InFlight.
  class Lease {
   public:
    Lease() = default;
    Lease(InFlight* owner, std::string key) : owner_(owner), key_(std::move(key)) {}
    Lease(Lease&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), key_(std::move(other.key_)) {}
    Lease& operator=(Lease&& other) noexcept {
      if (this != &other) {
        Release();
        owner_ = std::exchange(other.owner_, nullptr);
        key_ = std::move(other.key_);
      }
      return *this;
    }
    ~Lease() { Release(); }

   private:
    void Release() {
      if (owner_ == nullptr) return;
      const std::lock_guard lock(owner_->mutex_);
      owner_->keys_.erase(key_);
      owner_ = nullptr;
    }

    InFlight* owner_ = nullptr;
    std::string key_;
  };

  /// `key` names the thing in words, such as "volume fast/a"; ABORTED when another call has it.
  absl::StatusOr<Lease> Enter(const std::string& key) {
    const std::lock_guard lock(mutex_);
    if (!keys_.insert(key).second) {
      return absl::AbortedError(absl::StrCat(key, " is busy: another call for it is running; try ",
                                             "again when it has ended"));
    }
    return Lease(this, key);
  }

 private:
  std::mutex mutex_;
  std::set<std::string> keys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ublkd::volume
