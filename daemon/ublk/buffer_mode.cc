// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/buffer_mode.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace ublkd::ublk {
namespace {

constexpr std::array<std::pair<BufferMode, absl::string_view>, 3> kNames = {{
    {BufferMode::kCopy, "copy"},
    {BufferMode::kUserCopy, "user-copy"},
    {BufferMode::kZeroCopy, "zero-copy"},
}};

/// The best one that a target can be served in. All can be served by copying.
BufferMode BestMode(DataUse use) {
  switch (use) {
    case DataUse::kBytes:
    case DataUse::kNothing:
      return BufferMode::kCopy;
    case DataUse::kCopies:
      return BufferMode::kUserCopy;
    case DataUse::kForwards:
      return BufferMode::kZeroCopy;
  }
  return BufferMode::kCopy;
}

Features Missing(BufferMode mode, Features offered) {
  return Features(FeaturesOf(mode).bits() & ~offered.bits());
}

}  // namespace

absl::string_view BufferModeName(BufferMode mode) {
  return kNames[static_cast<size_t>(mode)].second;
}

std::optional<BufferMode> ParseBufferMode(absl::string_view name) {
  for (const auto& [mode, known] : kNames) {
    if (known == name) return mode;
  }
  return std::nullopt;
}

Features FeaturesOf(BufferMode mode) {
  switch (mode) {
    case BufferMode::kCopy:
      return {};
    case BufferMode::kUserCopy:
      return Features().With(Feature::kUserCopy);
    case BufferMode::kZeroCopy:
      // The second one registers by hand what the driver could not register.
      return Features().With(Feature::kAutoBufReg).With(Feature::kSupportZeroCopy);
  }
  return {};
}

BufferMode BufferModeOf(Features granted) {
  if (granted.Has(Feature::kAutoBufReg)) return BufferMode::kZeroCopy;
  if (granted.Has(Feature::kUserCopy)) return BufferMode::kUserCopy;
  return BufferMode::kCopy;
}

absl::StatusOr<BufferMode> ChooseBufferMode(std::optional<BufferMode> asked, DataUse use,
                                            Features offered) {
  const BufferMode best = BestMode(use);
  if (!asked.has_value()) {
    return Missing(best, offered).bits() == 0 ? best : BufferMode::kCopy;
  }
  if (*asked != BufferMode::kCopy && *asked != best && use != DataUse::kNothing) {
    return absl::FailedPreconditionError(absl::StrCat(
        "buffer mode ", BufferModeName(*asked), ": this target cannot be served in it; ask for ",
        best == BufferMode::kCopy ? "" : absl::StrCat(BufferModeName(best), " or "),
        "copy, or for none"));
  }
  if (const Features missing = Missing(*asked, offered); missing.bits() != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("buffer mode ", BufferModeName(*asked), ": the ublk driver does not offer ",
                     absl::StrJoin(missing.Names(), ", "), "; ask for copy, or for none"));
  }
  return *asked;
}

}  // namespace ublkd::ublk
