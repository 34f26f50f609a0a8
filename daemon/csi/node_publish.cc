// SPDX-License-Identifier: Apache-2.0
//
// NodePublishVolume and NodeUnpublishVolume.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/csi/format.h"
#include "daemon/csi/mount.h"
#include "daemon/csi/node.h"

namespace ublkd::csi {
namespace {

constexpr mode_t kTargetFolderMode = 0750;
constexpr mode_t kTargetFileMode = 0660;

absl::Status PublishedOtherwise(const PublishArguments& arguments, absl::string_view as) {
  return absl::AlreadyExistsError(absl::StrCat("volume ", arguments.volume_id, " is published at ",
                                               arguments.target, " ", as,
                                               "; unpublish it there first"));
}

bool IsPublishedReadOnly(const PublishArguments& arguments) {
  return arguments.read_only || arguments.usage.IsReadOnly();
}

}  // namespace

absl::Status Node::Publish(const PublishArguments& arguments) const {
  // A no-op when it is staged; kubelet does not always stage again by itself.
  const std::optional<NodeRecord> record = state_.Load(arguments.volume_id);
  StageArguments stage{arguments.volume_id, arguments.staging_path, arguments.usage};
  if (record.has_value() && record->staged) {
    const bool same_kind =
        record->usage.block == arguments.usage.block &&
        (arguments.usage.fs_type.empty() || arguments.usage.fs_type == record->usage.fs_type);
    if (record->staging_path != arguments.staging_path || !same_kind) {
      return absl::FailedPreconditionError(
          absl::StrCat("volume ", arguments.volume_id, " is staged at ", record->staging_path,
                       " as ", DescribeUsage(record->usage), " and cannot be published from ",
                       arguments.staging_path, " as ", DescribeUsage(arguments.usage)));
    }
    stage.usage = record->usage;
  }
  UBLKD_RETURN_IF_ERROR(Stage(stage));
  UBLKD_ASSIGN_OR_RETURN(const api::Volume volume, ublkd_.GetVolume(arguments.volume_id));
  UBLKD_ASSIGN_OR_RETURN(const BlockDevice device, AttachedDevice(volume));
  return PublishStaged(arguments, volume, device);
}

absl::Status Node::PublishStaged(const PublishArguments& arguments, const api::Volume& volume,
                                 const BlockDevice& device) const {
  std::optional<NodeRecord> record = state_.Load(arguments.volume_id);
  if (!record.has_value()) {
    return absl::AbortedError(absl::StrCat("the record of volume ", arguments.volume_id,
                                           " went away while it was published; try again"));
  }
  UBLKD_ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMounts());
  UBLKD_ASSIGN_OR_RETURN(const bool published, IsPublished(arguments, *record, device, mounts));
  if (published) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(CheckPublishable(arguments, *record, device, mounts));
  record->RemovePublication(arguments.target);
  record->publications.push_back(
      {arguments.target, IsPublishedReadOnly(arguments), arguments.usage.mode});
  UBLKD_RETURN_IF_ERROR(state_.Save(*record));
  if (const absl::Status made = MakeTarget(arguments); !made.ok()) {
    UBLKD_RETURN_IF_ERROR(ForgetPublication({arguments.volume_id, arguments.target}));
    return made;
  }
  const absl::Status status = arguments.usage.block
                                  ? ShowDevice(arguments, *record, volume, device, mounts)
                                  : ShowFilesystem(arguments);
  if (!status.ok()) {
    // Nobody unpublishes what was never published.
    const absl::Status undone = Unpublish({arguments.volume_id, arguments.target});
    if (!undone.ok()) {
      LogWarning("a failed publish cannot be undone yet",
                 {{"volume_id", arguments.volume_id}, {"error", std::string(undone.message())}});
    }
  }
  return status;
}

absl::StatusOr<bool> Node::IsPublished(const PublishArguments& arguments, const NodeRecord& record,
                                       const BlockDevice& device,
                                       const std::vector<MountEntry>& mounts) const {
  const std::vector<MountEntry> here = MountsAt(mounts, arguments.target);
  if (here.empty()) return false;
  const MountEntry& mount = here.back();
  const bool shows_filesystem = mount.device == device.number && mount.root == "/";
  const bool shows_device =
      !shows_filesystem && IsBindOfDevice(arguments.volume_id, mount, device.number);
  if (!shows_filesystem && !shows_device) {
    UBLKD_ASSIGN_OR_RETURN(const PathState state, StatPath(arguments.volume_id, arguments.target));
    if (state.corrupted) {
      UBLKD_RETURN_IF_ERROR(UnmountAll(arguments.volume_id, arguments.target));
      return false;
    }
    return absl::FailedPreconditionError(absl::StrCat("target_path ", arguments.target,
                                                      " has another mount, of ", mount.source,
                                                      "; unpublish what is there first"));
  }
  if (shows_device != arguments.usage.block) {
    return PublishedOtherwise(arguments, shows_device ? "as a block device" : "as a filesystem");
  }
  if (mount.IsReadOnly() != IsPublishedReadOnly(arguments)) {
    return PublishedOtherwise(arguments, mount.IsReadOnly() ? "read-only" : "for writing");
  }
  const Publication* publication = record.FindPublication(arguments.target);
  if (publication != nullptr && publication->mode != arguments.usage.mode) {
    return PublishedOtherwise(
        arguments, absl::StrCat("with access mode ", AccessMode::Mode_Name(publication->mode)));
  }
  return true;
}

absl::Status Node::CheckPublishable(const PublishArguments& arguments, const NodeRecord& record,
                                    const BlockDevice& device,
                                    const std::vector<MountEntry>& mounts) const {
  if (record.usage.IsReadOnly() && !IsPublishedReadOnly(arguments)) {
    return absl::FailedPreconditionError(
        absl::StrCat("volume ", arguments.volume_id,
                     " is staged read-only and cannot be published for writing"));
  }
  const std::vector<std::string> others = PathsOfDevice(
      arguments.volume_id, mounts, device.number, options_.kubelet_dir, arguments.staging_path);
  bool exclusive = arguments.usage.mode == AccessMode::SINGLE_NODE_SINGLE_WRITER;
  for (const Publication& publication : record.publications) {
    exclusive = exclusive || publication.mode == AccessMode::SINGLE_NODE_SINGLE_WRITER;
  }
  if (exclusive && !others.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "volume ", arguments.volume_id, " is published at ", absl::StrJoin(others, ", "),
        " and SINGLE_NODE_SINGLE_WRITER allows one target; unpublish it there first"));
  }
  if (arguments.usage.block || record.usage.IsReadOnly()) return absl::OkStatus();
  const std::vector<MountEntry> staged = MountsAt(mounts, arguments.staging_path);
  if (!staged.empty() && staged.back().IsFilesystemReadOnly()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the filesystem of volume ", arguments.volume_id,
                     " turned read-only after errors; end its workloads, so that it is unstaged, "
                     "and look at the "
                     "state of its device"));
  }
  return absl::OkStatus();
}

absl::Status Node::MakeTarget(const PublishArguments& arguments) const {
  const std::string& target = arguments.target;
  UBLKD_RETURN_IF_ERROR(
      MakeDirectories(std::filesystem::path(target).parent_path().string(), kTargetFolderMode));
  UBLKD_ASSIGN_OR_RETURN(const PathState state, StatPath(arguments.volume_id, target));
  const bool block = arguments.usage.block;
  if (state.exists) {
    if (block ? S_ISREG(state.mode) : S_ISDIR(state.mode)) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("target_path ", target, " exists and is no ",
                                                      block ? "regular file" : "folder",
                                                      "; remove it"));
  }
  if (block) {
    return OpenFile(target, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, kTargetFileMode).status();
  }
  if (mkdir(target.c_str(), kTargetFolderMode) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot make target_path ", target));
  }
  return absl::OkStatus();
}

absl::Status Node::ShowFilesystem(const PublishArguments& arguments) const {
  return BindMount(arguments.volume_id, arguments.staging_path, arguments.target,
                   IsPublishedReadOnly(arguments));
}

absl::Status Node::ShowDevice(const PublishArguments& arguments, const NodeRecord& record,
                              const api::Volume& volume, const BlockDevice& device,
                              const std::vector<MountEntry>& mounts) const {
  UBLKD_RETURN_IF_ERROR(MarkAsBlock(ublkd_, volume));
  // A read-only mount of a node does not keep anybody from writing to the device, so the device is
  // made read-only, for all of its targets.
  const bool read_only = IsPublishedReadOnly(arguments);
  const std::vector<std::string> others = PathsOfDevice(
      arguments.volume_id, mounts, device.number, options_.kubelet_dir, arguments.staging_path);
  UBLKD_ASSIGN_OR_RETURN(const bool is_read_only, IsDeviceReadOnly(device.path));
  if (is_read_only != read_only && !others.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "volume ", arguments.volume_id, " is published as a block device ",
        is_read_only ? "read-only" : "for writing", " at ", absl::StrJoin(others, ", "),
        " and a device cannot be both; unpublish it there first"));
  }
  if (!record.usage.IsReadOnly()) {
    UBLKD_RETURN_IF_ERROR(SetDeviceReadOnly(device.path, read_only));
  }
  return BindMount(arguments.volume_id, device.path, arguments.target, read_only);
}

absl::Status Node::Unpublish(const UnpublishArguments& arguments) const {
  for (const NodeRecord& other : state_.LoadAll()) {
    if (other.volume_id != arguments.volume_id &&
        other.FindPublication(arguments.target) != nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("target_path ", arguments.target,
                                                        " belongs to volume ", other.volume_id,
                                                        ", not to ", arguments.volume_id));
    }
  }
  UBLKD_RETURN_IF_ERROR(UnmountAll(arguments.volume_id, arguments.target));
  UBLKD_RETURN_IF_ERROR(RemoveTarget(arguments.volume_id, arguments.target));
  return ForgetPublication(arguments);
}

absl::Status Node::RemoveTarget(const std::string& owner, const std::string& target) const {
  UBLKD_ASSIGN_OR_RETURN(const PathState state, StatPath(owner, target));
  if (!state.exists) return absl::OkStatus();
  if (state.size_bytes != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot remove target_path ", target,
                     ": it is a file that is not the volume's; move it away"));
  }
  const int failed = S_ISDIR(state.mode) ? rmdir(target.c_str()) : unlink(target.c_str());
  if (failed == 0 || errno == ENOENT) return absl::OkStatus();
  if (errno == ENOTEMPTY) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot remove target_path ", target,
                     ": it holds files that are not the volume's; move them away"));
  }
  return ErrnoStatus(errno, absl::StrCat("cannot remove target_path ", target));
}

absl::Status Node::ForgetPublication(const UnpublishArguments& arguments) const {
  std::optional<NodeRecord> record = state_.Load(arguments.volume_id);
  if (!record.has_value()) return absl::OkStatus();
  if (record->FindPublication(arguments.target) == nullptr) return absl::OkStatus();
  record->RemovePublication(arguments.target);
  return state_.Save(*record);
}

}  // namespace ublkd::csi
