// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/usage.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ublkd::csi {

bool Usage::IsReadOnly() const {
  return mode == AccessMode::SINGLE_NODE_READER_ONLY ||
         std::find(mount_flags.begin(), mount_flags.end(), "ro") != mount_flags.end();
}

absl::StatusOr<Usage> ParseUsage(const pb::VolumeCapability& capability, absl::string_view field) {
  Usage usage;
  usage.mode = capability.access_mode().mode();
  if (!AccessMode::Mode_IsValid(usage.mode) || usage.mode == AccessMode::UNKNOWN) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ".access_mode is missing or unknown; give one"));
  }
  switch (capability.access_type_case()) {
    case pb::VolumeCapability::kBlock:
      usage.block = true;
      return usage;
    case pb::VolumeCapability::kMount:
      usage.fs_type = capability.mount().fs_type();
      usage.mount_flags.assign(capability.mount().mount_flags().begin(),
                               capability.mount().mount_flags().end());
      return usage;
    case pb::VolumeCapability::ACCESS_TYPE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(field, ".access_type is missing; give block or mount"));
}

absl::Status CheckSupported(const Usage& usage, absl::StatusCode code) {
  switch (usage.mode) {
    case AccessMode::SINGLE_NODE_WRITER:
    case AccessMode::SINGLE_NODE_READER_ONLY:
    case AccessMode::SINGLE_NODE_SINGLE_WRITER:
    case AccessMode::SINGLE_NODE_MULTI_WRITER:
      break;
    default:
      return {code, absl::StrCat("access mode ", AccessMode::Mode_Name(usage.mode),
                                 " is not possible: a volume of a file pool is on one node; use a "
                                 "SINGLE_NODE mode (ReadWriteOnce, ReadWriteOncePod)")};
  }
  if (!usage.block && !usage.fs_type.empty() && usage.fs_type != kExt4 && usage.fs_type != kXfs) {
    return {code, absl::StrCat("filesystem type \"", usage.fs_type,
                               "\" is not offered; use ext4 or xfs")};
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Usage>> ParseUsages(
    const google::protobuf::RepeatedPtrField<pb::VolumeCapability>& capabilities) {
  std::vector<Usage> usages;
  for (int i = 0; i < capabilities.size(); ++i) {
    absl::StatusOr<Usage> usage =
        ParseUsage(capabilities[i], absl::StrCat("volume_capabilities[", i, "]"));
    if (!usage.ok()) return usage.status();
    usages.push_back(*std::move(usage));
  }
  return usages;
}

std::string DescribeUsage(const Usage& usage) {
  std::string text = usage.block ? "block" : usage.fs_type.empty() ? "mount" : usage.fs_type;
  if (usage.IsReadOnly()) text += ", read-only";
  for (const std::string& flag : usage.mount_flags) {
    absl::StrAppend(&text, ", ", flag.substr(0, flag.find('=')));
  }
  return text;
}

bool SameUsage(const Usage& given, const Usage& asked) {
  if (given.block != asked.block || given.IsReadOnly() != asked.IsReadOnly()) return false;
  if (!asked.fs_type.empty() && given.fs_type != asked.fs_type) return false;
  std::vector<std::string> given_flags = given.mount_flags;
  std::vector<std::string> asked_flags = asked.mount_flags;
  std::sort(given_flags.begin(), given_flags.end());
  std::sort(asked_flags.begin(), asked_flags.end());
  return given_flags == asked_flags;
}

}  // namespace ublkd::csi
