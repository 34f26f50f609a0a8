// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/volume_name.h"

#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/csi/ublkd_client.h"

namespace ublkd::csi {
namespace {

// FNV-1a with 128 bits (RFC draft "The FNV Non-Cryptographic Hash Algorithm"). It need not resist
// an attacker: the full name is kept as a label and compared.
using Hash = unsigned __int128;
constexpr Hash kFnvOffset =
    static_cast<Hash>(0x6c62272e07bb0142) << 64 | static_cast<Hash>(0x62b821756295c58d);
constexpr Hash kFnvPrime = static_cast<Hash>(1) << 88 | static_cast<Hash>(0x13b);
constexpr int kHalfBits = 64;
constexpr size_t kMaxPrefixBytes = 24;
constexpr char kHashedPrefix[] = "h.";

std::string HashOf(absl::string_view text) {
  Hash hash = kFnvOffset;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= kFnvPrime;
  }
  return absl::StrCat(absl::Hex(static_cast<uint64_t>(hash >> kHalfBits), absl::kZeroPad16),
                      absl::Hex(static_cast<uint64_t>(hash), absl::kZeroPad16));
}

// One UTF-8 control character starts at `text`: C0 without tab, line feed and carriage return, DEL
// or C1.
bool StartsWithControl(absl::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first == '\t' || first == '\n' || first == '\r') return false;
  if (first < ' ' || first == 0x7f) return true;
  return first == 0xc2 && text.size() > 1 && static_cast<unsigned char>(text[1]) < 0xa0;
}

}  // namespace

absl::Status CheckVolumeName(absl::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError("name is missing; give it");
  for (size_t i = 0; i < name.size(); ++i) {
    if (StartsWithControl(name.substr(i))) {
      return absl::InvalidArgumentError("name has a control character; give it without");
    }
  }
  return absl::OkStatus();
}

std::string MakeVolumeName(absl::string_view pool, absl::string_view name) {
  if (IsVolumeId(absl::StrCat(pool, "/", name)) && !absl::StartsWith(name, kHashedPrefix)) {
    return std::string(name);
  }
  std::string readable;
  for (const char c : name) {
    const bool plain = absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
    if (plain && readable.size() < kMaxPrefixBytes) readable += c;
  }
  return absl::StrCat(kHashedPrefix, readable, readable.empty() ? "" : ".", HashOf(name));
}

}  // namespace ublkd::csi
