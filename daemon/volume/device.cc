// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/device.h"

#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "daemon/ublk/device.h"
#include "daemon/volume/volume.h"

namespace ublkd::volume {
namespace {

constexpr size_t kMaxPathBytes = 4095;

template <typename... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

absl::Status OutOfRange(absl::string_view field, uint64_t value, uint64_t least, uint64_t most,
                        absl::string_view remark = "") {
  return absl::InvalidArgumentError(absl::StrCat(
      "spec.", field, ": ", value, " is out of range; give ", least, " to ", most, remark));
}

absl::Status CheckNull(const NullSpec& null, uint32_t block_bytes) {
  const uint32_t block = block_bytes == 0 ? kSmallBlockBytes : block_bytes;
  if (null.size_bytes != 0 && null.size_bytes % block == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("spec.null.size_bytes: ", null.size_bytes,
                                                 " is not a positive multiple of the block size ",
                                                 block, "; round it"));
}

absl::Status CheckPath(const FileSpec& file) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "spec.file.path: \"", absl::CHexEscape(file.path.substr(0, kMaxIdBytes)), "\" ", why));
  };
  if (!absl::StartsWith(file.path, "/")) return refuse("is relative; give an absolute path");
  if (file.path.size() > kMaxPathBytes) return refuse("is longer than a path may be; shorten it");
  if (absl::StrContains(file.path, absl::string_view("\0", 1))) {
    return refuse("holds a zero byte; give a path");
  }
  for (const absl::string_view part : absl::StrSplit(file.path, '/')) {
    if (part == "..") return refuse("goes upwards with \"..\"; give the path it leads to");
  }
  return absl::OkStatus();
}

absl::Status CheckTarget(const DeviceSpec& spec) {
  return std::visit(
      Overloaded{
          [&](const NullSpec& null) { return CheckNull(null, spec.logical_block_bytes); },
          [](const FileSpec& file) { return CheckPath(file); },
          [](const VolumeSpec& volume) {
            return ParseVolumeId(volume.id, "spec.volume.volume_id").status();
          },
      },
      spec.target);
}

absl::Status CheckMaxIo(uint32_t bytes) {
  const uint32_t page_bytes = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  if (bytes == 0) return absl::OkStatus();
  if (bytes < ublk::kMinMaxIoBytes || bytes > ublk::kLargestMaxIoBytes || bytes % page_bytes != 0) {
    return OutOfRange("max_io_bytes", bytes, ublk::kMinMaxIoBytes, ublk::kLargestMaxIoBytes,
                      absl::StrCat(" in steps of ", page_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSpec(const DeviceSpec& spec, const DeviceLimits& limits) {
  if (spec.id.value_or(0) > kMaxDeviceId) return OutOfRange("id", *spec.id, 0, kMaxDeviceId);
  if (spec.queues > limits.max_queues) {
    return OutOfRange("queues", spec.queues, 1, limits.max_queues,
                      ", one for each CPU at most, or 0 for the default");
  }
  if (spec.depth > ublk::kMaxDepth) {
    return OutOfRange("depth", spec.depth, 1, ublk::kMaxDepth, ", or 0 for the default");
  }
  const uint32_t block_bytes = spec.logical_block_bytes;
  if (block_bytes != 0 && block_bytes != kSmallBlockBytes && block_bytes != kLargeBlockBytes) {
    return absl::InvalidArgumentError(absl::StrCat("spec.logical_block_bytes: ", block_bytes,
                                                   " is not offered; give 512 or 4096"));
  }
  UBLKD_RETURN_IF_ERROR(CheckMaxIo(spec.max_io_bytes));
  return CheckTarget(spec);
}

void FillInDefaults(DeviceSpec& spec, const DeviceLimits& limits) {
  if (spec.queues == 0) spec.queues = limits.default_queues;
  if (spec.depth == 0) spec.depth = ublk::DefaultDepth(spec.queues);
  if (spec.max_io_bytes == 0) spec.max_io_bytes = ublk::kDefaultMaxIoBytes;
}

absl::Status CheckSameDevice(const DeviceSpec& effective, const DeviceSpec& request) {
  const auto check = [&](absl::string_view field, uint32_t is, uint32_t wanted) -> absl::Status {
    if (wanted == 0 || wanted == is) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat(
        DescribeTarget(effective), " is attached as ", BlockPath(*effective.id), " with another ",
        field, ": it has ", is, ", asked for was ", wanted, "; delete that device first"));
  };
  if (request.id.has_value() && *request.id != *effective.id) {
    return absl::AlreadyExistsError(absl::StrCat(DescribeTarget(effective), " is attached as ",
                                                 BlockPath(*effective.id), ", asked for was id ",
                                                 *request.id, "; delete that device first"));
  }
  UBLKD_RETURN_IF_ERROR(check("queues", effective.queues, request.queues));
  UBLKD_RETURN_IF_ERROR(check("depth", effective.depth, request.depth));
  UBLKD_RETURN_IF_ERROR(check("max_io_bytes", effective.max_io_bytes, request.max_io_bytes));
  UBLKD_RETURN_IF_ERROR(
      check("logical_block_bytes", effective.logical_block_bytes, request.logical_block_bytes));
  if (request.buffers.has_value() && request.buffers != effective.buffers) {
    return absl::AlreadyExistsError(
        absl::StrCat(DescribeTarget(effective), " is attached as ", BlockPath(*effective.id),
                     " with another buffer mode than ", ublk::BufferModeName(*request.buffers),
                     "; delete that device first"));
  }
  if (effective.read_only == request.read_only) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(DescribeTarget(effective), " is attached as ", BlockPath(*effective.id),
                   effective.read_only ? " read-only" : " for writing", ", asked for was ",
                   request.read_only ? "read-only" : "for writing", "; delete that device first"));
}

std::string DescribeTarget(const DeviceSpec& spec) {
  return std::visit(Overloaded{
                        [](const NullSpec& null) {
                          return absl::StrCat("a null target of ", FormatBytes(null.size_bytes));
                        },
                        [](const FileSpec& file) { return absl::StrCat("file ", file.path); },
                        [](const VolumeSpec& volume) { return absl::StrCat("volume ", volume.id); },
                    },
                    spec.target);
}

std::string BlockPath(uint32_t id) { return absl::StrCat("/dev/ublkb", id); }

}  // namespace ublkd::volume
