// SPDX-License-Identifier: Apache-2.0
//
// NodeStageVolume and NodeUnstageVolume.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/csi/child.h"
#include "daemon/csi/filesystem.h"
#include "daemon/csi/format.h"
#include "daemon/csi/mount.h"
#include "daemon/csi/node.h"

namespace ublkd::csi {
namespace {

// kubelet's own, for the folders it makes.
constexpr mode_t kStagingFolderMode = 0750;

absl::Status StagedOtherwise(const StageArguments& arguments, absl::string_view as) {
  return absl::AlreadyExistsError(
      absl::StrCat("volume ", arguments.volume_id, " is staged at ", arguments.staging_path, " as ",
                   as, ", not as ", DescribeUsage(arguments.usage), "; unstage it first"));
}

// kubelet removes the staging folder with all that is in it, so nothing may be mounted below it.
absl::Status CheckNothingMounted(const UnstageArguments& arguments,
                                 const std::vector<MountEntry>& mounts) {
  const std::vector<std::string> below = MountPointsUnder(mounts, arguments.staging_path);
  if (below.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("volume ", arguments.volume_id,
                                                    " cannot be unstaged: something is mounted at ",
                                                    absl::StrJoin(below, ", "), "; unmount it"));
}

}  // namespace

absl::StatusOr<BlockDevice> Node::AttachedDevice(const api::Volume& volume) const {
  if (!volume.has_device_id()) {
    return absl::FailedPreconditionError(
        absl::StrCat("volume ", volume.id(), " is not attached; stage it again"));
  }
  UBLKD_ASSIGN_OR_RETURN(const api::Device device, ublkd_.GetDevice(volume.device_id()));
  return BlockDevice{device.id(), device.path(), DeviceNumber(device.major(), device.minor()),
                     device.size_bytes()};
}

// True when the volume is staged as asked; ALREADY_EXISTS when it is staged in another way. False
// means that there is something to do.
absl::StatusOr<bool> Node::IsStaged(const StageArguments& arguments,
                                    const api::Volume& volume) const {
  if (!volume.has_device_id()) return false;
  UBLKD_ASSIGN_OR_RETURN(const BlockDevice device, AttachedDevice(volume));
  const std::optional<NodeRecord> record = state_.Load(arguments.volume_id);
  if (record.has_value() && record->staged && record->usage.block) {
    if (!SameUsage(record->usage, arguments.usage)) {
      return StagedOtherwise(arguments, DescribeUsage(record->usage));
    }
    return record->device == device.number;
  }
  UBLKD_ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMounts());
  const std::vector<MountEntry> here = MountsAt(mounts, arguments.staging_path);
  if (here.empty() || here.back().device != device.number) return false;
  if (record.has_value() && record->staged) {
    if (!SameUsage(record->usage, arguments.usage)) {
      return StagedOtherwise(arguments, DescribeUsage(record->usage));
    }
    return true;
  }
  // Ended between the mount and the record of it, or the record was lost: the mount tells.
  const MountEntry& mount = here.back();
  const std::string fs_type = ChooseFilesystem(volume, arguments.usage.fs_type);
  if (arguments.usage.block || mount.fs_type != fs_type ||
      mount.IsReadOnly() != arguments.usage.IsReadOnly()) {
    return StagedOtherwise(arguments,
                           absl::StrCat(mount.fs_type, mount.IsReadOnly() ? ", read-only" : ""));
  }
  NodeRecord restored = record.value_or(NodeRecord{});
  restored.volume_id = arguments.volume_id;
  restored.staging_path = arguments.staging_path;
  restored.usage = arguments.usage;
  restored.usage.fs_type = fs_type;
  restored.device = device.number;
  restored.staged = true;
  UBLKD_RETURN_IF_ERROR(state_.Save(restored));
  return true;
}

absl::Status Node::Stage(const StageArguments& arguments) const {
  UBLKD_ASSIGN_OR_RETURN(const api::Volume volume, ublkd_.GetVolume(arguments.volume_id));
  const std::optional<NodeRecord> record = state_.Load(arguments.volume_id);
  if (record.has_value() && record->staged && record->staging_path != arguments.staging_path) {
    return absl::FailedPreconditionError(absl::StrCat("volume ", arguments.volume_id,
                                                      " is staged at ", record->staging_path,
                                                      " already; unstage it there first"));
  }
  UBLKD_ASSIGN_OR_RETURN(const bool staged, IsStaged(arguments, volume));
  if (staged) return absl::OkStatus();
  return StageAnew(arguments, volume);
}

absl::Status Node::StageAnew(const StageArguments& arguments, const api::Volume& volume) const {
  NodeRecord record;
  record.volume_id = arguments.volume_id;
  record.staging_path = arguments.staging_path;
  record.usage = arguments.usage;
  if (!arguments.usage.block) {
    record.usage.fs_type = ChooseFilesystem(volume, arguments.usage.fs_type);
    // What is wrong with the request is found before anything is done.
    UBLKD_RETURN_IF_ERROR(
        ParseMountOptions(record.usage.mount_flags, record.usage.fs_type, record.usage.IsReadOnly())
            .status());
  }
  bool attached_by_others = volume.has_device_id();
  if (const auto before = state_.Load(arguments.volume_id)) {
    record.publications = before->publications;
    record.made_staging_folder = before->made_staging_folder;
    attached_by_others = false;
  }
  UBLKD_RETURN_IF_ERROR(MakeStagingFolder(arguments.staging_path, record));
  const absl::Status status = AttachAndMount(arguments, record);
  if (status.ok() || HasStuckChild(arguments.volume_id)) return status;
  // Nobody unstages what was never staged, so a failed stage cleans up after itself.
  const absl::Status undone = attached_by_others
                                  ? state_.Remove(arguments.volume_id)
                                  : Unstage({arguments.volume_id, arguments.staging_path});
  if (!undone.ok()) {
    LogWarning("a failed stage cannot be undone yet",
               {{"volume_id", arguments.volume_id}, {"error", std::string(undone.message())}});
  }
  return status;
}

absl::Status Node::MakeStagingFolder(const std::string& path, NodeRecord& record) const {
  struct stat existing;
  const bool missing = lstat(path.c_str(), &existing) != 0 && errno == ENOENT;
  record.made_staging_folder = record.made_staging_folder || missing;
  // Before the first thing that would have to be undone.
  UBLKD_RETURN_IF_ERROR(state_.Save(record));
  if (!missing) return absl::OkStatus();
  return MakeDirectories(path, kStagingFolderMode);
}

absl::Status Node::AttachAndMount(const StageArguments& arguments, NodeRecord& record) const {
  UBLKD_ASSIGN_OR_RETURN(const BlockDevice device,
                         ublkd_.AttachVolume(arguments.volume_id, arguments.usage.IsReadOnly()));
  record.device = device.number;
  UBLKD_RETURN_IF_ERROR(state_.Save(record));
  UBLKD_RETURN_IF_ERROR(WaitForDevice(device));
  if (!arguments.usage.block) UBLKD_RETURN_IF_ERROR(MountStaged(arguments, device, record));
  record.staged = true;
  return state_.Save(record);
}

absl::Status Node::MountStaged(const StageArguments& arguments, const BlockDevice& device,
                               NodeRecord& record) const {
  const std::string& volume_id = arguments.volume_id;
  const std::string& fs_type = record.usage.fs_type;
  const bool read_only = record.usage.IsReadOnly();
  // A mount of another device, of before a restart of ublkd for example, is never taken for ours.
  UBLKD_RETURN_IF_ERROR(UnmountAll(volume_id, arguments.staging_path));
  // Read again: whatever was written came through a device that is not attached any more.
  UBLKD_ASSIGN_OR_RETURN(const api::Volume volume, ublkd_.GetVolume(volume_id));
  UBLKD_RETURN_IF_ERROR(EnsureFilesystem(ublkd_, volume, device, fs_type, read_only));
  if (!read_only) UBLKD_RETURN_IF_ERROR(PrepareFilesystem(volume_id, device.path, fs_type));
  UBLKD_ASSIGN_OR_RETURN(const MountOptions options,
                         ParseMountOptions(record.usage.mount_flags, fs_type, read_only));
  UBLKD_RETURN_IF_ERROR(
      MountFilesystem(volume_id, device.path, arguments.staging_path, fs_type, options));
  if (read_only) return absl::OkStatus();
  return GrowMounted(volume_id, device.path, arguments.staging_path, fs_type);
}

std::vector<std::string> Node::PublishedPaths(const std::string& volume_id,
                                              const std::vector<MountEntry>& mounts,
                                              const std::vector<dev_t>& devices,
                                              const std::string& staging_path) const {
  std::vector<std::string> paths;
  for (const dev_t device : devices) {
    const std::vector<std::string> more =
        PathsOfDevice(volume_id, mounts, device, options_.kubelet_dir, staging_path);
    paths.insert(paths.end(), more.begin(), more.end());
  }
  return paths;
}

absl::Status Node::Unstage(const UnstageArguments& arguments) const {
  const std::string& path = arguments.staging_path;
  const std::optional<NodeRecord> record = state_.Load(arguments.volume_id);
  UBLKD_ASSIGN_OR_RETURN(std::vector<MountEntry> mounts, ReadMounts());
  if (record.has_value() && record->staging_path != path) {
    // Never staged there, so there is nothing to undo, and nothing that we may undo.
    return CheckNothingMounted(arguments, mounts);
  }
  std::vector<dev_t> devices;
  if (record.has_value() && record->device != 0) devices.push_back(record->device);
  for (const MountEntry& mount : MountsAt(mounts, path)) {
    if (std::find(devices.begin(), devices.end(), mount.device) == devices.end()) {
      devices.push_back(mount.device);
    }
  }
  const std::vector<std::string> published =
      PublishedPaths(arguments.volume_id, mounts, devices, path);
  if (!published.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "volume ", arguments.volume_id, " cannot be unstaged: it is still published at ",
        absl::StrJoin(published, ", "), "; unpublish it there first"));
  }
  UBLKD_RETURN_IF_ERROR(UnmountAll(arguments.volume_id, path));
  UBLKD_ASSIGN_OR_RETURN(mounts, ReadMounts());
  UBLKD_RETURN_IF_ERROR(CheckNothingMounted(arguments, mounts));
  UBLKD_RETURN_IF_ERROR(Detach(arguments.volume_id));
  if (record.has_value() && record->made_staging_folder) rmdir(path.c_str());
  return state_.Remove(arguments.volume_id);
}

absl::Status Node::Detach(const std::string& volume_id) const {
  const absl::StatusOr<api::Volume> volume = ublkd_.GetVolume(volume_id);
  if (absl::IsNotFound(volume.status())) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(volume.status());
  if (!volume->has_device_id()) return absl::OkStatus();
  return ublkd_.DetachDevice(volume->device_id());
}

}  // namespace ublkd::csi
