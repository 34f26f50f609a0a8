// SPDX-License-Identifier: Apache-2.0
//
// Devices that grow while they are used. Nobody deletes a device meanwhile; it may still be left or
// end by itself, which the engine keeps apart.
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/volume/device_manager.h"

namespace ublkd::volume {

// A copy of the entry of a device that is served, and nobody else changes it until EndResize.
absl::StatusOr<DeviceManager::Entry> DeviceManager::BeginResize(uint32_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = devices_.find(id);
  if (found == devices_.end() || !found->second.exists()) {
    return NoSuchDevice(id);
  }
  Entry& entry = found->second;
  if (entry.phase == Phase::kWaiting) {
    return absl::UnavailableError(
        absl::StrCat("cannot resize ", BlockPath(id), ": it waits to be served again",
                     entry.view.reason.empty() ? "; try again" : ": ", entry.view.reason));
  }
  if (entry.phase != Phase::kLive || !entry.device->live()) {
    return absl::AbortedError(absl::StrCat(
        "device ", id, " is busy: it is ending or another call for it is running; try again"));
  }
  entry.phase = Phase::kChanging;
  return entry;
}

void DeviceManager::EndResize(uint32_t id) {
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = devices_.find(id);
    // It is not when ublkd stops.
    if (found == devices_.end() || found->second.phase != Phase::kChanging) return;
    found->second.phase = Phase::kLive;
    ended = !found->second.device->live();
  }
  if (ended) WakeHousekeeper();
}

absl::Status DeviceManager::GrowDisk(const std::string& volume_id, uint64_t size_bytes) {
  const std::optional<Attachment> attached = AttachedTo(volume_id);
  if (!attached.has_value() || attached->disk_bytes >= size_bytes) return absl::OkStatus();
  const absl::StatusOr<Entry> entry = BeginResize(attached->device_id);
  // Gone just now.
  if (absl::IsNotFound(entry.status())) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(entry.status());
  const absl::Cleanup end = [&] { EndResize(attached->device_id); };
  if (!entry->device->features().Has(ublk::Feature::kUpdateSize)) {
    LogWarning("disk cannot grow with its volume: it does when the volume is attached again",
               {{"device", attached->device_id},
                {"volume", volume_id},
                {"reason", "its driver has no UPDATE_SIZE"}});
    return absl::OkStatus();
  }
  return entry->device->Resize(size_bytes);
}

absl::StatusOr<DeviceView> DeviceManager::Resize(uint32_t id, uint64_t size_bytes) {
  UBLKD_RETURN_IF_ERROR(Readiness());
  {
    const absl::StatusOr<Entry> entry = BeginResize(id);
    if (absl::IsNotFound(entry.status())) UBLKD_RETURN_IF_ERROR(RefuseForeign(id, "resize"));
    UBLKD_RETURN_IF_ERROR(entry.status());
    const absl::Cleanup end = [&] { EndResize(id); };
    UBLKD_RETURN_IF_ERROR(ResizeTarget(*entry, size_bytes));
  }
  FailPoint("resize.done");
  return Get(id);
}

absl::Status DeviceManager::ResizeTarget(const Entry& entry, uint64_t size_bytes) {
  const auto& target = entry.record.spec.target;
  if (const auto* volume = std::get_if<VolumeSpec>(&target)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot resize ", BlockPath(entry.view.id), " alone: it serves volume ",
                     volume->id, "; resize the volume, and the disk grows with it"));
  }
  if (std::holds_alternative<NullSpec>(target)) return ResizeNull(entry, size_bytes);
  return ResizeToFile(entry, size_bytes);
}

absl::Status DeviceManager::ResizeNull(const Entry& entry, uint64_t size_bytes) {
  if (size_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("size_bytes: is 0, and ", BlockPath(entry.view.id),
                     " serves no file whose size it could take; give the new size"));
  }
  UBLKD_RETURN_IF_ERROR(entry.device->Resize(size_bytes));
  DeviceRecord record = entry.record;
  record.spec.target = NullSpec{size_bytes};
  // A record that is older than the disk is put right when the device is taken over.
  UBLKD_RETURN_IF_ERROR(records_.Write(record));
  FailPoint("resize.recorded");
  const std::lock_guard lock(mutex_);
  const auto found = devices_.find(entry.view.id);
  if (found == devices_.end()) return absl::OkStatus();
  found->second.record.spec.target = record.spec.target;
  found->second.view.spec.target = record.spec.target;
  return absl::OkStatus();
}

absl::Status DeviceManager::ResizeToFile(const Entry& entry, uint64_t size_bytes) {
  if (size_bytes != 0) return entry.device->Resize(size_bytes);
  UBLKD_ASSIGN_OR_RETURN(const uint64_t file_bytes, entry.device->AvailableBytes());
  const uint64_t disk_bytes = entry.device->geometry().size_bytes;
  if (file_bytes >= disk_bytes) return entry.device->Resize(file_bytes);
  return absl::FailedPreconditionError(absl::StrCat(
      "cannot resize ", BlockPath(entry.view.id), ": ", DescribeTarget(entry.view.spec),
      " has shrunk to ", file_bytes, " bytes, the disk has ", disk_bytes,
      " and cannot shrink; enlarge the file again"));
}

}  // namespace ublkd::volume
