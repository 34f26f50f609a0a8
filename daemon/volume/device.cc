// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/device.h"

#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/fail_after.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "daemon/ublk/device.h"
#include "daemon/volume/volume.h"

namespace ublkd::volume {
namespace {

constexpr size_t kMaxPathBytes = 4095;
constexpr uint32_t kMaxThreadsPerQueue = 16;
/// How long one request may take under a limit of bytes.
constexpr uint64_t kMostSecondsPerRequest = 10;

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

absl::Status CheckRate(absl::string_view name, uint64_t rate, uint64_t least, uint64_t most) {
  if (rate == 0 || (rate >= least && rate <= most)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", rate, " is out of range; give ", least,
                                                 " to ", most, ", or 0 for none"));
}

absl::Status CheckBurst(absl::string_view name, absl::string_view rate_name, uint64_t burst,
                        uint64_t rate, uint64_t least, uint64_t most) {
  if (burst != 0 && rate == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": ", burst, " is a burst of no limit; give ", rate_name, " as well, or 0"));
  }
  if (burst == 0 || (burst >= least && burst <= most)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", burst, " is out of range; give ",
                                                 least, " to ", most,
                                                 ", or 0 for a tenth of a second's worth"));
}

absl::Status CheckSameLimits(const DeviceSpec& effective, const DeviceSpec& request) {
  if (!request.limits.has_value()) return absl::OkStatus();
  const target::IoLimits is = effective.limits.value_or(target::IoLimits());
  const target::IoLimits wanted = target::CompleteLimits(*request.limits);
  if (is == wanted) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(DescribeTarget(effective), " is attached as ", BlockPath(*effective.id),
                   " with other limits: it has ", DescribeLimits(is), ", asked for was ",
                   DescribeLimits(wanted), "; set the limits of that device"));
}

}  // namespace

absl::Status CheckLimits(const target::IoLimits& limits, uint32_t max_io_bytes,
                         absl::string_view prefix) {
  const auto name = [prefix](absl::string_view field) {
    return absl::StrCat(prefix, "limits.", field);
  };
  UBLKD_RETURN_IF_ERROR(CheckRate(name("iops"), limits.iops, 1, target::kMaxIops));
  UBLKD_RETURN_IF_ERROR(CheckBurst(name("burst_ios"), name("iops"), limits.burst_ios, limits.iops,
                                   1, target::kMaxBurstIos));
  const uint32_t largest = max_io_bytes == 0 ? ublk::kDefaultMaxIoBytes : max_io_bytes;
  // A request must not look as if it hung.
  const uint64_t least = (largest + kMostSecondsPerRequest - 1) / kMostSecondsPerRequest;
  if (limits.bytes_per_second != 0 && limits.bytes_per_second < least) {
    return absl::InvalidArgumentError(absl::StrCat(
        name("bytes_per_second"), ": ", limits.bytes_per_second, " is too little for requests of ",
        FormatBytes(largest), ", each of which would take ", largest / limits.bytes_per_second,
        " s; give at least ", least, " or make the device with a smaller max_io_bytes"));
  }
  UBLKD_RETURN_IF_ERROR(CheckRate(name("bytes_per_second"), limits.bytes_per_second, least,
                                  target::kMaxBytesPerSecond));
  return CheckBurst(name("burst_bytes"), name("bytes_per_second"), limits.burst_bytes,
                    limits.bytes_per_second, target::kMinBurstBytes, target::kMaxBurstBytes);
}

std::string DescribeLimits(const target::IoLimits& limits) {
  std::string text;
  if (limits.iops != 0) {
    absl::StrAppend(&text, limits.iops, " IOPS (burst ", limits.burst_ios, ")");
  }
  if (limits.bytes_per_second != 0) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", FormatBytes(limits.bytes_per_second),
                    "/s (burst ", FormatBytes(limits.burst_bytes), ")");
  }
  return text.empty() ? "none" : text;
}

absl::Status CheckSpec(const DeviceSpec& spec, const DeviceBounds& bounds) {
  if (spec.id.value_or(0) > kMaxDeviceId) return OutOfRange("id", *spec.id, 0, kMaxDeviceId);
  if (spec.queues > bounds.max_queues) {
    return OutOfRange("queues", spec.queues, 1, bounds.max_queues,
                      ", one for each CPU at most, or 0 for the default");
  }
  if (spec.depth > ublk::kMaxDepth) {
    return OutOfRange("depth", spec.depth, 1, ublk::kMaxDepth, ", or 0 for the default");
  }
  const uint32_t most_threads =
      spec.depth == 0 ? kMaxThreadsPerQueue : std::min(spec.depth, kMaxThreadsPerQueue);
  if (spec.threads_per_queue > most_threads) {
    return OutOfRange("threads_per_queue", spec.threads_per_queue, 1, most_threads,
                      ", no more than the depth, or 0 for the default");
  }
  const uint32_t block_bytes = spec.logical_block_bytes;
  if (block_bytes != 0 && block_bytes != kSmallBlockBytes && block_bytes != kLargeBlockBytes) {
    return absl::InvalidArgumentError(absl::StrCat("spec.logical_block_bytes: ", block_bytes,
                                                   " is not offered; give 512 or 4096"));
  }
  UBLKD_RETURN_IF_ERROR(CheckMaxIo(spec.max_io_bytes));
  if (spec.limits.has_value()) {
    UBLKD_RETURN_IF_ERROR(CheckLimits(*spec.limits, spec.max_io_bytes, "spec."));
  }
  return CheckTarget(spec);
}

void FillInDefaults(DeviceSpec& spec, const DeviceBounds& bounds) {
  if (spec.queues == 0) spec.queues = bounds.default_queues;
  if (spec.depth == 0) spec.depth = ublk::DefaultDepth(spec.queues);
  if (spec.threads_per_queue == 0) spec.threads_per_queue = 1;
  if (spec.max_io_bytes == 0) spec.max_io_bytes = ublk::kDefaultMaxIoBytes;
  spec.limits = target::CompleteLimits(spec.limits.value_or(target::IoLimits()));
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
  UBLKD_RETURN_IF_ERROR(
      check("threads_per_queue", effective.threads_per_queue, request.threads_per_queue));
  UBLKD_RETURN_IF_ERROR(check("max_io_bytes", effective.max_io_bytes, request.max_io_bytes));
  UBLKD_RETURN_IF_ERROR(
      check("logical_block_bytes", effective.logical_block_bytes, request.logical_block_bytes));
  UBLKD_RETURN_IF_ERROR(CheckSameLimits(effective, request));
  if (request.buffers.has_value() && request.buffers != effective.buffers) {
    return absl::AlreadyExistsError(
        absl::StrCat(DescribeTarget(effective), " is attached as ", BlockPath(*effective.id),
                     " with another buffer mode than ", ublk::BufferModeName(*request.buffers),
                     "; delete that device first"));
  }
  if (request.fail_after_seconds.has_value() &&
      request.fail_after_seconds != effective.fail_after_seconds) {
    return absl::AlreadyExistsError(
        absl::StrCat(DescribeTarget(effective), " is attached as ", BlockPath(*effective.id),
                     " with another fail_after than ", FormatFailAfter(*request.fail_after_seconds),
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

std::string ErrnoText(int error_number) { return std::generic_category().message(error_number); }

void AddTrouble(DeviceView& view, const ublk::DeviceStats& stats) {
  for (const ublk::Op op : ublk::kAllOps) {
    const ublk::OpStats total = stats.Total(op);
    if (total.errors > 0) view.errors.push_back({op, total.errors, total.last_errno});
  }
  view.oldest_request = absl::Nanoseconds(static_cast<int64_t>(stats.oldest_request_ns()));
}

}  // namespace ublkd::volume
