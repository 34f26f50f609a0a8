// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/features.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace ublkd::ublk {
namespace {

constexpr size_t kBitCount = 64;

/// Index is the bit.
constexpr std::array<const char*, 21> kNames = {
    "SUPPORT_ZERO_COPY",
    "URING_CMD_COMP_IN_TASK",
    "NEED_GET_DATA",
    "USER_RECOVERY",
    "USER_RECOVERY_REISSUE",
    "UNPRIVILEGED_DEV",
    "CMD_IOCTL_ENCODE",
    "USER_COPY",
    "ZONED",
    "USER_RECOVERY_FAIL_IO",
    "UPDATE_SIZE",
    "AUTO_BUF_REG",
    "QUIESCE",
    "PER_IO_DAEMON",
    "BUF_REG_OFF_DAEMON",
    "BATCH_IO",
    "INTEGRITY",
    "SAFE_STOP_DEV",
    "NO_AUTO_PART_SCAN",
    "SHMEM_ZC",
    "IO_DESC_SIZE",
};

}  // namespace

std::vector<std::string> Features::Names() const {
  std::vector<std::string> names;
  for (size_t bit = 0; bit < kBitCount; ++bit) {
    if (((bits_ >> bit) & 1) == 0) continue;
    names.push_back(bit < kNames.size() ? kNames[bit] : absl::StrCat("BIT_", bit));
  }
  return names;
}

bool Features::Parse(absl::string_view name, Feature& feature) {
  for (size_t bit = 0; bit < kNames.size(); ++bit) {
    if (name == kNames[bit]) {
      feature = static_cast<Feature>(bit);
      return true;
    }
  }
  return false;
}

}  // namespace ublkd::ublk
