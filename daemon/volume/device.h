// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "daemon/target/io_limits.h"
#include "daemon/ublk/buffer_mode.h"
#include "daemon/ublk/stats.h"

/// What a device is to serve and what it has become. Sizes are bytes.
namespace ublkd::volume {

struct NullSpec {
  uint64_t size_bytes = 0;
};
struct FileSpec {
  /// Absolute path.
  std::string path;
};
struct VolumeSpec {
  /// "<pool>/<name>".
  std::string id;
};

/// In a request 0 and nullopt leave the choice to the server; in effect all are filled in.
struct DeviceSpec {
  std::variant<NullSpec, FileSpec, VolumeSpec> target;
  std::optional<uint32_t> id;
  uint32_t queues = 0;
  uint32_t depth = 0;
  uint32_t threads_per_queue = 0;
  uint32_t max_io_bytes = 0;
  uint32_t logical_block_bytes = 0;
  bool read_only = false;
  std::optional<ublk::BufferMode> buffers = {};
  /// In a request nullopt leaves them as they are: there are none at first. A burst of 0 is that of
  /// target::CompleteLimits.
  std::optional<target::IoLimits> limits = {};
  /// How long its users wait for a server that stays away before they get errors; 0: for ever.
  std::optional<uint32_t> fail_after_seconds = {};
};

enum class DeviceState {
  kLive,
  /// Nobody serves it; its users wait.
  kQuiesced,
  /// It is being taken over.
  kRecovering,
  kFailed,
};

/// Errors of one operation since this server has the device.
struct OpErrors {
  ublk::Op op = ublk::Op::kRead;
  uint64_t count = 0;
  /// Of the last one: positive, as the target gave it.
  int last_errno = 0;
};

/// A device as it is now.
struct DeviceView {
  uint32_t id = 0;
  /// "/dev/ublkbN".
  std::string path;
  uint32_t major = 0;
  uint32_t minor = 0;
  DeviceState state = DeviceState::kLive;
  /// Why it is not live, when that is known.
  std::string reason;
  DeviceSpec spec;
  uint64_t size_bytes = 0;
  std::vector<std::string> features;
  absl::Time created_at;
  /// Others made it: no spec, buffer mode, features and time of creation are known.
  bool foreign = false;
  /// 0 when nobody serves it, or the process cannot be seen from here.
  pid_t server_pid = 0;
  /// Operations that had errors, and how long the oldest request waits for the target. Both are
  /// filled in by Get and List.
  std::vector<OpErrors> errors;
  absl::Duration oldest_request;
};

/// A device and its counters at one moment; no queues while nobody serves it.
struct DeviceSnapshot {
  DeviceView view;
  ublk::DeviceStats stats;
};

/// What a request is held against.
struct DeviceBounds {
  uint32_t max_queues = 1;
  /// For a request that names none; not above `max_queues`.
  uint32_t default_queues = 1;
};

/// The largest id: what the kernel's 20 bits of minor numbers hold.
inline constexpr uint32_t kMaxDeviceId = (1u << 20) - 1;

/// Checks all that can be said without looking at files, volumes and the driver; INVALID_ARGUMENT
/// names the field and its limits.
absl::Status CheckSpec(const DeviceSpec& spec, const DeviceBounds& bounds);

/// Checks limits of a device whose largest request is `max_io_bytes`; INVALID_ARGUMENT names the
/// field, which follows `prefix`.
absl::Status CheckLimits(const target::IoLimits& limits, uint32_t max_io_bytes,
                         absl::string_view prefix);

/// Fills in the queues, depth, threads, request size and limits that a request leaves open.
void FillInDefaults(DeviceSpec& spec, const DeviceBounds& bounds);

/// OK when a device with `effective` is what `request` asks for, else ALREADY_EXISTS naming the
/// difference. Both have the same target.
absl::Status CheckSameDevice(const DeviceSpec& effective, const DeviceSpec& request);

/// "1000 IOPS (burst 100), 10 MiB/s (burst 1 MiB)", "none".
std::string DescribeLimits(const target::IoLimits& limits);

/// What a device serves, in words: "volume fast/a", "file /x", "a null target of 1 GiB".
std::string DescribeTarget(const DeviceSpec& spec);

/// "/dev/ublkbN".
std::string BlockPath(uint32_t id);

/// "No space left on device".
std::string ErrnoText(int error_number);

/// Fills in what the counters say about errors and requests that wait.
void AddTrouble(DeviceView& view, const ublk::DeviceStats& stats);

}  // namespace ublkd::volume
