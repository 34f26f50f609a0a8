// SPDX-License-Identifier: Apache-2.0
//
// A disk that grows while it is used.
#include <limits>

#include "absl/strings/str_cat.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/status.h"
#include "daemon/ublk/device.h"

namespace ublkd::ublk {

Geometry Device::geometry() const {
  Geometry now = geometry_;
  now.size_bytes = size_bytes_;
  return now;
}

absl::Status Device::CheckServed() const {
  if (added_ && target_ != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(block_path_, ": it is not served here any more; look at the device again"));
}

absl::StatusOr<uint64_t> Device::AvailableBytes() const {
  const absl::MutexLock lock(&life_mutex_);
  UBLKD_RETURN_IF_ERROR(CheckServed());
  return target_->AvailableBytes();
}

absl::Status Device::CheckNewSize(uint64_t size_bytes) const {
  const auto refuse = [&](absl::string_view why) {
    return absl::StrCat(block_path_, ": cannot resize to ", size_bytes, " bytes: ", why);
  };
  const uint64_t now_bytes = size_bytes_;
  if (size_bytes < now_bytes) {
    return absl::InvalidArgumentError(refuse(absl::StrCat(
        "the disk has ", now_bytes, " and its users would lose data; give that or more")));
  }
  if (size_bytes % geometry_.logical_block_bytes != 0 ||
      size_bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError(
        refuse(absl::StrCat("it must be a multiple of the block size ",
                            geometry_.logical_block_bytes, " and less than 8 EiB; round it")));
  }
  if (!info_.features.Has(Feature::kUpdateSize)) {
    return absl::FailedPreconditionError(
        refuse("the ublk driver of the device has no UPDATE_SIZE; detach it and attach it again"));
  }
  UBLKD_ASSIGN_OR_RETURN(const uint64_t available_bytes, target_->AvailableBytes());
  if (size_bytes <= available_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(
      refuse(absl::StrCat("what it serves has only ", available_bytes, "; enlarge that first")));
}

absl::Status Device::Resize(uint64_t size_bytes) {
  const absl::MutexLock lock(&life_mutex_);
  UBLKD_RETURN_IF_ERROR(CheckServed());
  if (size_bytes == size_bytes_) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(CheckNewSize(size_bytes));
  UBLKD_RETURN_IF_ERROR(control_.UpdateSize(info_.id, size_bytes));
  size_bytes_ = size_bytes;
  FailPoint("resize.disk");
  return absl::OkStatus();
}

}  // namespace ublkd::ublk
