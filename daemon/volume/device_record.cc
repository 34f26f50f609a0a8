// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/device_record.h"

#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"
#include "daemon/volume/json.h"

namespace ublkd::volume {
namespace {

constexpr absl::string_view kFormatName = "ublkd-device";
constexpr absl::string_view kSuffix = ".json";
constexpr uint32_t kMaxUint32 = std::numeric_limits<uint32_t>::max();
constexpr mode_t kFolderMode = 0700;

std::string FileOf(uint32_t id) { return absl::StrCat(id, kSuffix); }

Json EncodeTarget(const DeviceSpec& spec) {
  if (const auto* null = std::get_if<NullSpec>(&spec.target)) {
    return {{"type", "null"}, {"size_bytes", null->size_bytes}};
  }
  if (const auto* file = std::get_if<FileSpec>(&spec.target)) {
    return {{"type", "file"}, {"path", file->path}};
  }
  return {{"type", "volume"}, {"volume_id", std::get<VolumeSpec>(spec.target).id}};
}

absl::Status DecodeTarget(const Json& json, DeviceSpec& spec) {
  UBLKD_ASSIGN_OR_RETURN(const std::string type, TextField(json, "type"));
  if (type == "null") {
    UBLKD_ASSIGN_OR_RETURN(const uint64_t size_bytes, NumberField(json, "size_bytes"));
    spec.target = NullSpec{size_bytes};
  } else if (type == "file") {
    UBLKD_ASSIGN_OR_RETURN(std::string path, TextField(json, "path"));
    spec.target = FileSpec{std::move(path)};
  } else if (type == "volume") {
    UBLKD_ASSIGN_OR_RETURN(std::string id, TextField(json, "volume_id"));
    spec.target = VolumeSpec{std::move(id)};
  } else {
    return absl::DataLossError(absl::StrCat("\"", type, "\" is not a target's type"));
  }
  return absl::OkStatus();
}

absl::Status DecodeNumber(const Json& json, const char* name, uint32_t& into) {
  UBLKD_ASSIGN_OR_RETURN(const uint64_t number, NumberField(json, name, kMaxUint32));
  into = static_cast<uint32_t>(number);
  return absl::OkStatus();
}

/// Older records have no such field, and none that leaves the choice open.
absl::Status DecodeBuffers(const Json& json, DeviceSpec& spec) {
  if (!json.contains("buffers")) return absl::OkStatus();
  UBLKD_ASSIGN_OR_RETURN(const std::string name, TextField(json, "buffers"));
  spec.buffers = ublk::ParseBufferMode(name);
  if (spec.buffers.has_value()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("\"", name, "\" is not a buffer mode"));
}

Json EncodeLimits(const target::IoLimits& limits) {
  return {{"iops", limits.iops},
          {"burst_ios", limits.burst_ios},
          {"bytes_per_second", limits.bytes_per_second},
          {"burst_bytes", limits.burst_bytes}};
}

absl::StatusOr<target::IoLimits> DecodeLimits(const Json& json) {
  target::IoLimits limits;
  UBLKD_ASSIGN_OR_RETURN(limits.iops, NumberField(json, "iops", target::kMaxIops));
  UBLKD_ASSIGN_OR_RETURN(limits.burst_ios, NumberField(json, "burst_ios", target::kMaxBurstIos));
  UBLKD_ASSIGN_OR_RETURN(limits.bytes_per_second,
                         NumberField(json, "bytes_per_second", target::kMaxBytesPerSecond));
  UBLKD_ASSIGN_OR_RETURN(limits.burst_bytes,
                         NumberField(json, "burst_bytes", target::kMaxBurstBytes));
  return limits;
}

/// Records of an ublkd that knew of no guard have no such field.
absl::Status DecodeFailAfter(const Json& json, std::optional<uint32_t>& seconds) {
  if (!json.contains("fail_after_seconds")) return absl::OkStatus();
  return DecodeNumber(json, "fail_after_seconds", seconds.emplace());
}

/// Records of an ublkd that knew of one thread only have no such field.
absl::Status DecodeThreads(const Json& json, uint32_t& threads_per_queue) {
  threads_per_queue = 1;
  if (!json.contains("threads_per_queue")) return absl::OkStatus();
  return DecodeNumber(json, "threads_per_queue", threads_per_queue);
}

absl::Status DecodeSpec(const Json& json, DeviceSpec& spec) {
  UBLKD_ASSIGN_OR_RETURN(const Json target, ObjectField(json, "target"));
  UBLKD_RETURN_IF_ERROR(DecodeTarget(target, spec));
  UBLKD_RETURN_IF_ERROR(DecodeNumber(json, "queues", spec.queues));
  UBLKD_RETURN_IF_ERROR(DecodeNumber(json, "depth", spec.depth));
  UBLKD_RETURN_IF_ERROR(DecodeThreads(json, spec.threads_per_queue));
  UBLKD_RETURN_IF_ERROR(DecodeNumber(json, "max_io_bytes", spec.max_io_bytes));
  UBLKD_RETURN_IF_ERROR(DecodeNumber(json, "logical_block_bytes", spec.logical_block_bytes));
  UBLKD_ASSIGN_OR_RETURN(spec.read_only, TruthField(json, "read_only"));
  UBLKD_RETURN_IF_ERROR(DecodeFailAfter(json, spec.fail_after_seconds));
  UBLKD_RETURN_IF_ERROR(DecodeBuffers(json, spec));
  spec.limits = target::IoLimits();
  if (!json.contains("limits")) return absl::OkStatus();
  UBLKD_ASSIGN_OR_RETURN(const Json limits, ObjectField(json, "limits"));
  UBLKD_ASSIGN_OR_RETURN(spec.limits, DecodeLimits(limits));
  return absl::OkStatus();
}

/// The oldest version whose readers know all that the record says, so that the ublkd before can
/// take over what it can serve.
uint32_t VersionOf(const DeviceSpec& spec) {
  const bool copies = spec.buffers.value_or(ublk::BufferMode::kCopy) == ublk::BufferMode::kCopy;
  const bool limited = spec.limits.value_or(target::IoLimits()).limited();
  return copies && !limited ? kPlainDeviceRecordVersion : kDeviceRecordVersion;
}

}  // namespace

std::string EncodeDeviceRecord(const DeviceRecord& record) {
  const target::IoLimits limits = record.spec.limits.value_or(target::IoLimits());
  Json json = {
      {"format", std::string(kFormatName)},
      {"version", VersionOf(record.spec)},
      {"id", *record.spec.id},
      {"spec",
       {{"target", EncodeTarget(record.spec)},
        {"queues", record.spec.queues},
        {"depth", record.spec.depth},
        {"max_io_bytes", record.spec.max_io_bytes},
        {"logical_block_bytes", record.spec.logical_block_bytes},
        {"read_only", record.spec.read_only}}},
      {"flags", record.flags},
      {"boot_id", record.boot_id},
      {"server_pid", static_cast<uint32_t>(record.server_pid)},
      {"generation", record.generation},
      {"created_at", FormatRecordTime(record.created_at)},
  };
  if (record.spec.buffers.has_value()) {
    json["spec"]["buffers"] = std::string(ublk::BufferModeName(*record.spec.buffers));
  }
  if (record.spec.threads_per_queue > 1) {
    json["spec"]["threads_per_queue"] = record.spec.threads_per_queue;
  }
  if (limits.limited()) json["spec"]["limits"] = EncodeLimits(limits);
  if (record.spec.fail_after_seconds.has_value()) {
    json["spec"]["fail_after_seconds"] = *record.spec.fail_after_seconds;
  }
  if (record.cookie != 0) json["cookie"] = record.cookie;
  if (record.fail_after_seconds != 0) json["fail_after_seconds"] = record.fail_after_seconds;
  return DumpRecord(json);
}

absl::StatusOr<DeviceRecord> DecodeDeviceRecord(absl::string_view text) {
  UBLKD_ASSIGN_OR_RETURN(const Json json, ParseRecord(text, kFormatName, kOldestDeviceRecordVersion,
                                                      kDeviceRecordVersion));
  DeviceRecord record;
  uint32_t id = 0;
  uint32_t server_pid = 0;
  UBLKD_RETURN_IF_ERROR(DecodeNumber(json, "id", id));
  record.spec.id = id;
  UBLKD_ASSIGN_OR_RETURN(const Json spec, ObjectField(json, "spec"));
  UBLKD_RETURN_IF_ERROR(DecodeSpec(spec, record.spec));
  std::optional<uint32_t> fail_after_seconds;
  UBLKD_RETURN_IF_ERROR(DecodeFailAfter(json, fail_after_seconds));
  record.fail_after_seconds = fail_after_seconds.value_or(0);
  if (json.contains("cookie")) {
    UBLKD_ASSIGN_OR_RETURN(record.cookie, NumberField(json, "cookie"));
  }
  UBLKD_ASSIGN_OR_RETURN(record.flags, NumberField(json, "flags"));
  UBLKD_ASSIGN_OR_RETURN(record.boot_id, TextField(json, "boot_id"));
  UBLKD_RETURN_IF_ERROR(DecodeNumber(json, "server_pid", server_pid));
  record.server_pid = static_cast<pid_t>(server_pid);
  UBLKD_ASSIGN_OR_RETURN(record.generation, NumberField(json, "generation"));
  UBLKD_ASSIGN_OR_RETURN(record.created_at, TimeField(json, "created_at"));
  return record;
}

absl::StatusOr<DeviceRecords> DeviceRecords::Open(const std::string& path) {
  UBLKD_RETURN_IF_ERROR(MakeDirectories(path, kFolderMode));
  UBLKD_ASSIGN_OR_RETURN(OwnedDirectory directory, OwnedDirectory::Open(path));
  return DeviceRecords(std::move(directory));
}

absl::StatusOr<DeviceRecords> DeviceRecords::OpenToRead(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(OwnedDirectory directory, OwnedDirectory::OpenToRead(path));
  return DeviceRecords(std::move(directory));
}

absl::StatusOr<std::map<uint32_t, absl::StatusOr<DeviceRecord>>> DeviceRecords::Load() const {
  std::map<uint32_t, absl::StatusOr<DeviceRecord>> records;
  UBLKD_ASSIGN_OR_RETURN(const std::vector<std::string> files, directory_.List());
  for (const std::string& file : files) {
    absl::string_view name = file;
    uint32_t id = 0;
    if (!absl::ConsumeSuffix(&name, kSuffix) || !absl::SimpleAtoi(name, &id) ||
        file != FileOf(id)) {
      continue;
    }
    const absl::StatusOr<std::string> text = directory_.Read(file);
    absl::StatusOr<DeviceRecord> record =
        text.ok() ? DecodeDeviceRecord(*text) : absl::StatusOr<DeviceRecord>(text.status());
    if (record.ok() && record->spec.id != id) {
      record = absl::DataLossError("it is the record of another device");
    }
    records.emplace(id, std::move(record));
  }
  return records;
}

absl::Status DeviceRecords::Write(const DeviceRecord& record) const {
  return directory_.Write(FileOf(*record.spec.id), EncodeDeviceRecord(record));
}

absl::Status DeviceRecords::Remove(uint32_t id) const { return directory_.Remove(FileOf(id)); }

std::string DeviceRecords::TargetOfUnreadable(uint32_t id) const {
  const absl::StatusOr<std::string> text = directory_.Read(FileOf(id));
  if (!text.ok()) return "";
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  DeviceSpec spec;
  const auto described = [&]() -> absl::Status {
    UBLKD_ASSIGN_OR_RETURN(const Json inner, ObjectField(json, "spec"));
    UBLKD_ASSIGN_OR_RETURN(const Json target, ObjectField(inner, "target"));
    return DecodeTarget(target, spec);
  }();
  const bool shared = std::holds_alternative<NullSpec>(spec.target);
  return described.ok() && !shared ? DescribeTarget(spec) : "";
}

std::string DeviceRecords::PathOf(uint32_t id) const { return directory_.PathOf(FileOf(id)); }

}  // namespace ublkd::volume
