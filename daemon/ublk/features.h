// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace ublkd::ublk {

/// Feature bits of the ublk ABI (UBLK_F_* without the prefix), by bit number.
enum class Feature : uint8_t {
  kSupportZeroCopy = 0,
  kUringCmdCompInTask = 1,
  kNeedGetData = 2,
  kUserRecovery = 3,
  kUserRecoveryReissue = 4,
  kUnprivilegedDev = 5,
  kCmdIoctlEncode = 6,
  kUserCopy = 7,
  kZoned = 8,
  kUserRecoveryFailIo = 9,
  kUpdateSize = 10,
  kAutoBufReg = 11,
  kQuiesce = 12,
  kPerIoDaemon = 13,
  kBufRegOffDaemon = 14,
  kBatchIo = 15,
  kIntegrity = 16,
  kSafeStopDev = 17,
  kNoAutoPartScan = 18,
  kShmemZc = 19,
  kIoDescSize = 20,
};

/// A set of features. A plain value.
class Features {
 public:
  constexpr Features() = default;
  /// `bits` as the driver gives them (GET_FEATURES, dev_info.flags).
  constexpr explicit Features(uint64_t bits) : bits_(bits) {}

  constexpr uint64_t bits() const { return bits_; }
  constexpr bool Has(Feature feature) const {
    return (bits_ >> static_cast<unsigned>(feature)) & 1;
  }
  constexpr Features With(Feature feature) const {
    return Features(bits_ | uint64_t{1} << static_cast<unsigned>(feature));
  }

  /// Names in the order of their bits, such as "CMD_IOCTL_ENCODE"; a bit without a name is "BIT_n".
  std::vector<std::string> Names() const;

  /// The feature of a name that `Names` gives for a known bit; false for any other text.
  static bool Parse(absl::string_view name, Feature& feature);

  friend constexpr bool operator==(Features, Features) = default;

 private:
  uint64_t bits_ = 0;
};

}  // namespace ublkd::ublk
