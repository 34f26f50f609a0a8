// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/volume_record.h"

#include <array>
#include <limits>

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"
#include "daemon/volume/json.h"

namespace ublkd::volume {
namespace {

constexpr absl::string_view kFormatName = "ublkd-volume";

absl::StatusOr<Format::State> ParseFormatState(absl::string_view text) {
  constexpr std::array kStates = {Format::State::kUnknown, Format::State::kNever,
                                  Format::State::kFormatting, Format::State::kFormatted};
  for (const Format::State state : kStates) {
    if (text == FormatStateName(state)) return state;
  }
  return absl::DataLossError(absl::StrCat("\"", text, "\" is not a format state"));
}

absl::StatusOr<Provisioning> ParseProvisioning(absl::string_view text) {
  for (const Provisioning provisioning : {Provisioning::kThin, Provisioning::kThick}) {
    if (text == ProvisioningName(provisioning)) return provisioning;
  }
  return absl::DataLossError(absl::StrCat("\"", text, "\" is not a provisioning"));
}

absl::StatusOr<Format> DecodeFormat(const Json& json) {
  Format format;
  UBLKD_ASSIGN_OR_RETURN(const std::string state, TextField(json, "state"));
  UBLKD_ASSIGN_OR_RETURN(format.state, ParseFormatState(state));
  UBLKD_ASSIGN_OR_RETURN(format.fs_type, TextField(json, "fs_type"));
  UBLKD_ASSIGN_OR_RETURN(format.fs_uuid, TextField(json, "fs_uuid"));
  UBLKD_ASSIGN_OR_RETURN(format.changed_at, TimeField(json, "changed_at"));
  return format;
}

absl::StatusOr<Labels> DecodeLabels(const Json& json) {
  Labels labels;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) return absl::DataLossError("a label is not a text");
    labels[key] = value.get<std::string>();
  }
  return labels;
}

}  // namespace

std::string EncodeVolumeRecord(const VolumeRecord& record) {
  Json labels = Json::object();
  for (const auto& [key, value] : record.labels) labels[key] = value;
  const Json json = {
      {"format", std::string(kFormatName)},
      {"version", kVolumeRecordVersion},
      {"name", record.name},
      {"size_bytes", record.size_bytes},
      {"logical_block_bytes", record.logical_block_bytes},
      {"provisioning", std::string(ProvisioningName(record.provisioning))},
      {"filesystem",
       {{"state", std::string(FormatStateName(record.format.state))},
        {"fs_type", record.format.fs_type},
        {"fs_uuid", record.format.fs_uuid},
        {"changed_at", FormatRecordTime(record.format.changed_at)}}},
      {"labels", labels},
      {"created_at", FormatRecordTime(record.created_at)},
      {"generation", record.generation},
  };
  return DumpRecord(json);
}

absl::StatusOr<VolumeRecord> DecodeVolumeRecord(absl::string_view text) {
  UBLKD_ASSIGN_OR_RETURN(const Json json, ParseRecord(text, kFormatName, kOldestVolumeRecordVersion,
                                                      kVolumeRecordVersion));
  VolumeRecord record;
  UBLKD_ASSIGN_OR_RETURN(record.name, TextField(json, "name"));
  UBLKD_ASSIGN_OR_RETURN(record.size_bytes, NumberField(json, "size_bytes"));
  UBLKD_ASSIGN_OR_RETURN(
      const uint64_t block_bytes,
      NumberField(json, "logical_block_bytes", std::numeric_limits<uint32_t>::max()));
  record.logical_block_bytes = static_cast<uint32_t>(block_bytes);
  UBLKD_ASSIGN_OR_RETURN(const std::string provisioning, TextField(json, "provisioning"));
  UBLKD_ASSIGN_OR_RETURN(record.provisioning, ParseProvisioning(provisioning));
  UBLKD_ASSIGN_OR_RETURN(const Json filesystem, ObjectField(json, "filesystem"));
  UBLKD_ASSIGN_OR_RETURN(record.format, DecodeFormat(filesystem));
  UBLKD_ASSIGN_OR_RETURN(const Json labels, ObjectField(json, "labels"));
  UBLKD_ASSIGN_OR_RETURN(record.labels, DecodeLabels(labels));
  UBLKD_ASSIGN_OR_RETURN(record.created_at, TimeField(json, "created_at"));
  UBLKD_ASSIGN_OR_RETURN(record.generation, NumberField(json, "generation"));
  const VolumeRequest shape{
      record.name, record.size_bytes, record.logical_block_bytes, std::nullopt, {}};
  if (const absl::Status sane = CheckRequest("", shape); !sane.ok()) {
    return absl::DataLossError(sane.message());
  }
  return record;
}

}  // namespace ublkd::volume
