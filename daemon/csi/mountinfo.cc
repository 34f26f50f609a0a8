// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/mountinfo.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

constexpr char kMountInfoPath[] = "/proc/self/mountinfo";
constexpr int kMaxReads = 10;

// Positions of the fields before the optional ones, and after the "-" that ends those.
constexpr size_t kDeviceField = 2;
constexpr size_t kRootField = 3;
constexpr size_t kMountPointField = 4;
constexpr size_t kOptionsField = 5;
constexpr size_t kFirstOptionalField = 6;
constexpr size_t kFieldsAfterDash = 3;

// Undoes the kernel's "\040" form of space, tab, newline, backslash and hash.
std::string Unescape(absl::string_view text) {
  constexpr size_t kDigits = 3;
  constexpr unsigned kBase = 8;
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    bool octal = text[i] == '\\' && i + kDigits < text.size();
    for (size_t digit = 1; octal && digit <= kDigits; ++digit) {
      const char c = text[i + digit];
      octal = c >= '0' && c < '8';
      value = value * kBase + static_cast<unsigned>(c - '0');
    }
    plain += octal ? static_cast<char>(value) : text[i];
    if (octal) i += kDigits;
  }
  return plain;
}

bool ParseLine(absl::string_view line, MountEntry& entry) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
  const auto dash = std::find(fields.begin(), fields.end(), "-");
  const auto before = static_cast<size_t>(dash - fields.begin());
  const auto after = static_cast<size_t>(fields.end() - dash);
  if (before < kFirstOptionalField || after < kFieldsAfterDash + 1) return false;
  const std::optional<dev_t> device = ParseDeviceNumber(fields[kDeviceField]);
  if (!device) return false;
  entry.device = *device;
  entry.root = Unescape(fields[kRootField]);
  entry.mount_point = Unescape(fields[kMountPointField]);
  entry.options = std::string(fields[kOptionsField]);
  entry.shared =
      std::any_of(fields.begin() + kFirstOptionalField, dash,
                  [](absl::string_view field) { return absl::StartsWith(field, "shared:"); });
  entry.fs_type = Unescape(dash[1]);
  entry.source = Unescape(dash[2]);
  entry.super_options = std::string(dash[3]);
  return true;
}

}  // namespace

bool HasOption(absl::string_view options, absl::string_view option) {
  const std::vector<absl::string_view> all = absl::StrSplit(options, ',');
  return std::find(all.begin(), all.end(), option) != all.end();
}

bool MountEntry::IsReadOnly() const { return HasOption(options, "ro"); }

bool MountEntry::IsFilesystemReadOnly() const { return HasOption(super_options, "ro"); }

absl::StatusOr<std::vector<MountEntry>> ParseMountInfo(absl::string_view text) {
  std::vector<MountEntry> mounts;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (!ParseLine(line, mounts.emplace_back())) {
      return absl::InternalError(absl::StrCat("cannot understand the mount \"", line, "\""));
    }
  }
  return mounts;
}

absl::StatusOr<std::vector<MountEntry>> ReadMounts() {
  UBLKD_ASSIGN_OR_RETURN(std::string last, ReadFile(kMountInfoPath));
  for (int i = 0; i < kMaxReads; ++i) {
    UBLKD_ASSIGN_OR_RETURN(std::string now, ReadFile(kMountInfoPath));
    if (now == last) return ParseMountInfo(now);
    last = std::move(now);
  }
  return absl::UnavailableError("cannot read the mounts: they change all the time; try again");
}

std::vector<MountEntry> MountsAt(const std::vector<MountEntry>& mounts, absl::string_view path) {
  std::vector<MountEntry> found;
  for (const MountEntry& entry : mounts) {
    if (entry.mount_point == path) found.push_back(entry);
  }
  return found;
}

std::vector<std::string> MountPointsUnder(const std::vector<MountEntry>& mounts,
                                          absl::string_view path) {
  std::vector<std::string> found;
  for (const MountEntry& entry : mounts) {
    if (entry.mount_point == path || absl::StartsWith(entry.mount_point, absl::StrCat(path, "/"))) {
      found.push_back(entry.mount_point);
    }
  }
  return found;
}

}  // namespace ublkd::csi
