// SPDX-License-Identifier: Apache-2.0
//
// Changes of a device's limits while it is served, or waits to be.
#include "absl/strings/str_cat.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/status.h"
#include "daemon/volume/device_manager.h"

namespace ublkd::volume {

absl::StatusOr<DeviceView> DeviceManager::SetLimits(uint32_t id, const target::IoLimits& limits) {
  UBLKD_RETURN_IF_ERROR(Readiness());
  UBLKD_ASSIGN_OR_RETURN(Entry entry, Find(id));
  if (!entry.exists()) {
    UBLKD_RETURN_IF_ERROR(RefuseForeign(id, "change"));
    return NoSuchDevice(id);
  }
  UBLKD_RETURN_IF_ERROR(CheckLimits(limits, entry.record.spec.max_io_bytes, ""));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Lease lease, LockServed(entry));
  UBLKD_RETURN_IF_ERROR(BeginPhase(entry, Phase::kChanging));

  DeviceRecord changed = entry.record;
  changed.spec.limits = target::CompleteLimits(limits);
  // First on disk: what was answered survives this server.
  const absl::Status written = records_.Write(changed);
  FailPoint("limits.recorded");
  if (written.ok() && entry.throttle != nullptr) entry.throttle->Set(*changed.spec.limits);
  DeviceView view;
  {
    const std::lock_guard lock(mutex_);
    Entry& now = devices_[id];
    now.phase = entry.phase;
    if (written.ok()) {
      now.record = changed;
      now.view.spec.limits = changed.spec.limits;
    }
    view = ViewOf(now);
  }
  // The housekeeper has passed over it meanwhile.
  if (entry.device == nullptr || !entry.device->live()) WakeHousekeeper();
  UBLKD_RETURN_IF_ERROR(written);
  return view;
}

}  // namespace ublkd::volume
