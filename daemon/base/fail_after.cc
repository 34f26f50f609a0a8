// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/fail_after.h"

#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace ublkd {
namespace {

constexpr char kWait[] = "wait";

}  // namespace

absl::StatusOr<uint32_t> ParseFailAfter(absl::string_view text) {
  if (text == kWait) return 0;
  uint32_t seconds = 0;
  if (absl::SimpleAtoi(text, &seconds)) return seconds;
  absl::Duration duration;
  if (absl::ParseDuration(std::string(text), &duration) && duration >= absl::ZeroDuration() &&
      duration <= absl::Seconds(std::numeric_limits<uint32_t>::max()) &&
      duration == absl::Floor(duration, absl::Seconds(1))) {
    return static_cast<uint32_t>(absl::ToInt64Seconds(duration));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", text, "\": is not a time to wait; give wait, or whole seconds such as 30s or 5m"));
}

std::string FormatFailAfter(uint32_t seconds) {
  return seconds == 0 ? kWait : absl::FormatDuration(absl::Seconds(seconds));
}

}  // namespace ublkd
