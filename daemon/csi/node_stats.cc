// SPDX-License-Identifier: Apache-2.0
//
// NodeGetVolumeStats.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"
#include "daemon/csi/child.h"
#include "daemon/csi/mount.h"
#include "daemon/csi/node.h"

namespace ublkd::csi {
namespace {

constexpr std::chrono::milliseconds kStatfsDeadline{5'000};

void AddUsage(pb::NodeGetVolumeStatsResponse& response, pb::VolumeUsage::Unit unit, uint64_t total,
              uint64_t free, uint64_t available) {
  pb::VolumeUsage& usage = *response.add_usage();
  usage.set_unit(unit);
  usage.set_total(static_cast<int64_t>(total));
  usage.set_used(static_cast<int64_t>(total - std::min(total, free)));
  usage.set_available(static_cast<int64_t>(available));
}

absl::Status AddFilesystemUsage(const std::string& volume_id, const std::string& path,
                                pb::NodeGetVolumeStatsResponse& response) {
  struct statfs space {};
  UBLKD_RETURN_IF_ERROR(RunInChild(
      volume_id, absl::StrCat("cannot ask for the space of ", path), kStatfsDeadline,
      [&] { return statfs(path.c_str(), &space) == 0 ? 0 : errno; }, &space, sizeof(space)));
  const auto block_bytes = static_cast<uint64_t>(space.f_frsize);
  AddUsage(response, pb::VolumeUsage::BYTES, space.f_blocks * block_bytes,
           space.f_bfree * block_bytes, space.f_bavail * block_bytes);
  // A filesystem without a fixed number of inodes says 0.
  if (space.f_files != 0) {
    AddUsage(response, pb::VolumeUsage::INODES, space.f_files, space.f_ffree, space.f_ffree);
  }
  return absl::OkStatus();
}

void SetCondition(pb::NodeGetVolumeStatsResponse& response, const std::string& problem) {
  pb::VolumeCondition& condition = *response.mutable_volume_condition();
  condition.set_abnormal(!problem.empty());
  condition.set_message(problem.empty() ? "the volume is working" : problem);
}

// In words what is wrong with the device, or nothing.
std::string DeviceProblem(const absl::StatusOr<api::Device>& device) {
  if (!device.ok()) {
    return absl::StrCat("the state of the device is not known: ", device.status().message());
  }
  switch (device->state()) {
    case api::Device::STATE_LIVE:
      return "";
    case api::Device::STATE_QUIESCED:
      return "the device waits for its server, reads and writes wait with it";
    case api::Device::STATE_RECOVERING:
      return "the device is being recovered, reads and writes wait until it is";
    default:
      return "the device has failed, reads and writes end with errors";
  }
}

}  // namespace

absl::StatusOr<pb::NodeGetVolumeStatsResponse> Node::Stats(const std::string& volume_id,
                                                           const std::string& path) const {
  UBLKD_ASSIGN_OR_RETURN(const api::Volume volume, ublkd_.GetVolume(volume_id));
  const absl::Status not_there = absl::NotFoundError(
      absl::StrCat("volume ", volume_id, " is neither staged nor published at ", path));
  if (!volume.has_device_id()) return not_there;
  const absl::StatusOr<api::Device> device = ublkd_.GetDevice(volume.device_id());
  UBLKD_RETURN_IF_ERROR(device.status());
  const dev_t number = DeviceNumber(device->major(), device->minor());
  UBLKD_ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMounts());
  const std::vector<MountEntry> here = MountsAt(mounts, path);
  const std::optional<NodeRecord> record = state_.Load(volume_id);
  pb::NodeGetVolumeStatsResponse response;
  std::string problem = DeviceProblem(device);
  if (!here.empty() && here.back().device == number) {
    const bool asked_read_only = record.has_value() && record->usage.IsReadOnly();
    if (here.back().IsFilesystemReadOnly() && !asked_read_only && problem.empty()) {
      problem = "the filesystem turned read-only after errors";
    }
    UBLKD_RETURN_IF_ERROR(AddFilesystemUsage(volume_id, path, response));
  } else if ((!here.empty() && IsBindOfDevice(volume_id, here.back(), number)) ||
             (record.has_value() && record->usage.block && record->staging_path == path)) {
    pb::VolumeUsage& usage = *response.add_usage();
    usage.set_unit(pb::VolumeUsage::BYTES);
    usage.set_total(static_cast<int64_t>(device->size_bytes()));
  } else {
    return not_there;
  }
  SetCondition(response, problem);
  return response;
}

}  // namespace ublkd::csi
