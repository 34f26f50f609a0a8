// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/size.h"

#include <array>
#include <cmath>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ublkd {
namespace {

constexpr absl::string_view kPrefixes = "KMGTPE";

absl::Status NotASize(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", text,
      "\" is not a size: give bytes or a number with a unit such as 64MiB, 10GiB or 1T"));
}

// The factor of "", "B", "K", "KiB" or "KB"; 0 for anything else.
double UnitFactor(absl::string_view unit) {
  if (unit.empty() || unit == "B") return 1;
  const size_t power = kPrefixes.find(absl::ascii_toupper(static_cast<unsigned char>(unit[0])));
  if (power == absl::string_view::npos) return 0;
  const absl::string_view rest = unit.substr(1);
  if (rest.empty() || rest == "i" || rest == "iB") return std::pow(1024.0, power + 1);
  if (rest == "B") return std::pow(1000.0, power + 1);
  return 0;
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) {
  const size_t digits_end = text.find_first_not_of("0123456789.");
  const absl::string_view number = text.substr(0, digits_end);
  absl::string_view unit;
  if (digits_end != absl::string_view::npos) unit = text.substr(digits_end);
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);

  uint64_t whole = 0;
  if (unit.empty() && absl::SimpleAtoi(number, &whole)) {
    return whole;
  }
  double value = 0;
  const double factor = UnitFactor(unit);
  if (factor == 0 || !absl::SimpleAtod(number, &value)) {
    return NotASize(text);
  }
  const double bytes = value * factor;
  constexpr double kTooLarge = 18446744073709551616.0;  // 2^64
  if (!(bytes < kTooLarge) || bytes != std::floor(bytes)) return NotASize(text);
  return static_cast<uint64_t>(bytes);
}

std::string FormatBytes(uint64_t bytes) {
  constexpr std::array<const char*, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  constexpr uint64_t kStep = 1024;
  size_t unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= kStep && unit + 1 < kUnits.size()) {
    value /= kStep;
    ++unit;
  }
  const bool whole = value == std::floor(value);
  return absl::StrFormat("%.*f %s", whole ? 0 : 1, value, kUnits[unit]);
}

}  // namespace ublkd
