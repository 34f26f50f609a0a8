// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/volume.h"

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::volume {
namespace {

constexpr absl::string_view kRawBlock = "block";
constexpr size_t kMaxFsTypeBytes = 32;
constexpr size_t kUuidBytes = 36;

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
}

bool IsUuid(absl::string_view text) {
  if (text.size() != kUuidBytes) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !absl::ascii_isxdigit(static_cast<unsigned char>(text[i]))) {
      return false;
    }
  }
  return true;
}

absl::Status CheckLabels(const Labels& labels) {
  size_t bytes = 0;
  for (const auto& [key, value] : labels) {
    if (key.empty()) return absl::InvalidArgumentError("labels: a key is empty; name it");
    bytes += key.size() + value.size();
  }
  if (bytes <= kMaxLabelsBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("labels: keys and values take ", bytes,
                                                 " bytes; the limit is ", kMaxLabelsBytes));
}

absl::Status CheckFormat(const Format& format) {
  const bool described =
      format.state == Format::State::kFormatting || format.state == Format::State::kFormatted;
  if (format.state == Format::State::kUnknown) {
    return absl::InvalidArgumentError(
        "format.state: is unspecified; give never, formatting or formatted");
  }
  if (described != !format.fs_type.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("format.fs_type: \"", format.fs_type, "\" does not fit state ",
                     FormatStateName(format.state), "; name the filesystem or \"block\" exactly ",
                     "when the state is formatting or formatted"));
  }
  if (format.fs_type.size() > kMaxFsTypeBytes ||
      !std::all_of(format.fs_type.begin(), format.fs_type.end(), IsNameCharacter)) {
    return absl::InvalidArgumentError(
        absl::StrCat("format.fs_type: is not a filesystem's name; give up to ", kMaxFsTypeBytes,
                     " letters and digits, such as ext4"));
  }
  const bool needs_uuid = described && format.fs_type != kRawBlock;
  if (needs_uuid ? !IsUuid(format.fs_uuid) : !format.fs_uuid.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "format.fs_uuid: \"", format.fs_uuid,
        "\" does not fit; a filesystem has a UUID of the form "
        "01234567-89ab-cdef-0123-456789abcdef, raw and unformatted volumes have none"));
  }
  return absl::OkStatus();
}

absl::Status CheckSize(uint64_t size_bytes, uint32_t block_bytes) {
  if (size_bytes == 0 || size_bytes % block_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("size_bytes: ", size_bytes,
                                                   " is not a positive multiple of the block size ",
                                                   block_bytes, "; round it"));
  }
  if (size_bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError(
        absl::StrCat("size_bytes: ", size_bytes, " is more than a file can hold; ask for less"));
  }
  return absl::OkStatus();
}

std::string QuoteBlock(uint32_t bytes) { return absl::StrCat(bytes, "-byte blocks"); }

}  // namespace

std::string FormatVolumeId(absl::string_view pool, absl::string_view name) {
  return absl::StrCat(pool, "/", name);
}

absl::Status CheckName(absl::string_view name, size_t max_bytes, absl::string_view field) {
  if (!name.empty() && name.size() <= max_bytes && name.front() != '.' &&
      std::all_of(name.begin(), name.end(), IsNameCharacter)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      field, ": \"", absl::CHexEscape(name.substr(0, kMaxIdBytes)), "\" is not a name; give 1 to ",
      max_bytes, " letters, digits, '.', '_' or '-', not beginning with a dot"));
}

absl::StatusOr<VolumeId> ParseVolumeId(absl::string_view id, absl::string_view field) {
  const size_t slash = id.find('/');
  if (slash == absl::string_view::npos || id.size() > kMaxIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, ": \"", absl::CHexEscape(id.substr(0, kMaxIdBytes)),
        "\" is not a volume id; give \"<pool>/<name>\" of at most ", kMaxIdBytes, " bytes"));
  }
  VolumeId parts{std::string(id.substr(0, slash)), std::string(id.substr(slash + 1))};
  UBLKD_RETURN_IF_ERROR(CheckName(parts.pool, kMaxPoolNameBytes, field));
  UBLKD_RETURN_IF_ERROR(CheckName(parts.name, kMaxIdBytes, field));
  return parts;
}

uint32_t ChooseBlockBytes(const VolumeRequest& request) {
  if (request.logical_block_bytes.has_value()) return *request.logical_block_bytes;
  return request.size_bytes % kLargeBlockBytes == 0 ? kLargeBlockBytes : kSmallBlockBytes;
}

absl::Status CheckRequest(absl::string_view pool, const VolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(CheckName(request.name, kMaxIdBytes, "name"));
  if (const size_t bytes = FormatVolumeId(pool, request.name).size(); bytes > kMaxIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat("name: with the pool's name the id takes ",
                                                   bytes, " bytes; the limit is ", kMaxIdBytes));
  }
  const uint32_t block_bytes = ChooseBlockBytes(request);
  if (block_bytes != kSmallBlockBytes && block_bytes != kLargeBlockBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("logical_block_bytes: ", block_bytes, " is not offered; give 512 or 4096"));
  }
  UBLKD_RETURN_IF_ERROR(CheckSize(request.size_bytes, block_bytes));
  return CheckLabels(request.labels);
}

absl::Status CheckSame(absl::string_view pool, const VolumeRecord& existing,
                       const VolumeRequest& request) {
  const auto differs = [&](absl::string_view field, absl::string_view is, absl::string_view want) {
    return absl::AlreadyExistsError(
        absl::StrCat("volume ", FormatVolumeId(pool, existing.name), " exists with another ", field,
                     ": it has ", is, ", asked for was ", want, "; delete it or choose a name"));
  };
  if (existing.size_bytes != request.size_bytes) {
    return differs("size_bytes", absl::StrCat(existing.size_bytes),
                   absl::StrCat(request.size_bytes));
  }
  if (request.logical_block_bytes.value_or(existing.logical_block_bytes) !=
      existing.logical_block_bytes) {
    return differs("logical_block_bytes", QuoteBlock(existing.logical_block_bytes),
                   QuoteBlock(*request.logical_block_bytes));
  }
  if (request.provisioning.value_or(existing.provisioning) != existing.provisioning) {
    return differs("provisioning", ProvisioningName(existing.provisioning),
                   ProvisioningName(*request.provisioning));
  }
  return absl::OkStatus();
}

absl::Status CheckNewSize(absl::string_view volume_id, const VolumeRecord& existing,
                          uint64_t size_bytes) {
  UBLKD_RETURN_IF_ERROR(CheckSize(size_bytes, existing.logical_block_bytes));
  if (size_bytes >= existing.size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("size_bytes: volume ", volume_id, " has ", existing.size_bytes,
                   " bytes and may hold data in all of them; give that or more, not ", size_bytes));
}

absl::Status CheckFormatChange(absl::string_view volume_id, const Format& now,
                               Format::State expected, const Format& wanted) {
  UBLKD_RETURN_IF_ERROR(CheckFormat(wanted));
  if (now.state != expected) {
    return absl::FailedPreconditionError(
        absl::StrCat("volume ", volume_id, " is not in the expected format state: it is ",
                     FormatStateName(now.state), ", expected was ", FormatStateName(expected),
                     "; read the volume again"));
  }
  const bool may_hold_data =
      now.state == Format::State::kFormatted || now.state == Format::State::kUnknown;
  if (may_hold_data && wanted.state != Format::State::kFormatted) {
    return absl::FailedPreconditionError(absl::StrCat(
        "volume ", volume_id, " cannot go from format state ", FormatStateName(now.state), " to ",
        FormatStateName(wanted.state), ": it may hold data; delete it and create another"));
  }
  return absl::OkStatus();
}

absl::string_view ProvisioningName(Provisioning provisioning) {
  return provisioning == Provisioning::kThick ? "thick" : "thin";
}

absl::string_view FormatStateName(Format::State state) {
  switch (state) {
    case Format::State::kNever:
      return "never";
    case Format::State::kFormatting:
      return "formatting";
    case Format::State::kFormatted:
      return "formatted";
    case Format::State::kUnknown:
      break;
  }
  return "unknown";
}

}  // namespace ublkd::volume
