// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/device_watch.h"

#include <string>

#include "absl/strings/str_join.h"
#include "daemon/base/log.h"

namespace ublkd::volume {

void DeviceWatch::Look(const std::vector<WatchedDevice>& devices, absl::Time now) {
  std::map<uint32_t, Seen> seen;
  for (const WatchedDevice& device : devices) {
    Seen& entry = seen[device.id];
    const auto before = seen_.find(device.id);
    if (before != seen_.end() && before->second.created_at == device.created_at &&
        before->second.generation == device.generation) {
      entry = before->second;
    }
    entry.created_at = device.created_at;
    entry.generation = device.generation;
    if (entry.quiet_at == device.requests) {
      if (now >= entry.give_back_at) {
        entry.give_back_at = absl::InfiniteFuture();
        device.give_memory_back();
      }
      continue;
    }
    const ublk::DeviceStats stats = device.stats();
    LookForErrors(device, stats, entry, now);
    LookForStuck(device, stats, entry);
    const bool quiet = stats.in_flight() == 0 && entry.new_errors == 0;
    entry.quiet_at = quiet ? std::optional(device.requests) : std::nullopt;
    entry.give_back_at = now + options_.idle_after;
  }
  seen_ = std::move(seen);
}

void DeviceWatch::LookForErrors(const WatchedDevice& device, const ublk::DeviceStats& stats,
                                Seen& seen, absl::Time now) const {
  uint64_t more = 0;
  std::vector<absl::string_view> ops;
  ublk::OpStats last;
  for (const ublk::Op op : ublk::kAllOps) {
    const ublk::OpStats total = stats.Total(op);
    uint64_t& known = seen.errors[static_cast<size_t>(op)];
    if (total.errors == known) continue;
    more += total.errors - known;
    known = total.errors;
    ops.push_back(ublk::OpName(op));
    if (total.last_error_ns >= last.last_error_ns) last = total;
  }
  const bool had_errors = seen.new_errors > 0;
  if (more > 0) {
    seen.new_errors += more;
    seen.last_error = now;
    if (had_errors) return;
    LogError("device has I/O errors", {{"device", device.id},
                                       {"target", DescribeTarget(device.spec)},
                                       {"op", absl::StrJoin(ops, " ")},
                                       {"errors", more},
                                       {"last_error", ErrnoText(last.last_errno)}});
  } else if (had_errors && now - seen.last_error >= options_.errors_over_after) {
    LogInfo("device has no more I/O errors", {{"device", device.id},
                                              {"target", DescribeTarget(device.spec)},
                                              {"errors", seen.new_errors}});
    seen.new_errors = 0;
  }
}

void DeviceWatch::LookForStuck(const WatchedDevice& device, const ublk::DeviceStats& stats,
                               Seen& seen) const {
  const absl::Duration oldest = absl::Nanoseconds(static_cast<int64_t>(stats.oldest_request_ns()));
  const bool was_stuck = seen.stuck > absl::ZeroDuration();
  if (oldest >= options_.stuck_after) {
    seen.stuck = oldest;
    if (was_stuck) return;
    LogError("backend of a device does not answer: its users wait",
             {{"device", device.id},
              {"target", DescribeTarget(device.spec)},
              {"requests", stats.in_flight()},
              {"oldest_seconds", absl::ToDoubleSeconds(oldest)}});
  } else if (was_stuck) {
    LogInfo("backend of a device answers again",
            {{"device", device.id},
             {"target", DescribeTarget(device.spec)},
             {"waited_seconds", absl::ToDoubleSeconds(seen.stuck)}});
    seen.stuck = absl::ZeroDuration();
  }
}

}  // namespace ublkd::volume
