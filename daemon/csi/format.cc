// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/format.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/csi/child.h"
#include "daemon/csi/usage.h"

namespace ublkd::csi {
namespace {

constexpr std::chrono::minutes kMkfsDeadline{10};
// More at the same time would only take the disk from the workloads of the node.
constexpr int kMaxParallelMkfs = 2;
constexpr char kBlockFormat[] = "block";
constexpr char kUuidPath[] = "/proc/sys/kernel/random/uuid";

using Kind = DeviceContents::Kind;

absl::Status Refuse(const api::Volume& volume, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("volume ", volume.id(), " ", why));
}

bool Holds(const DeviceContents& contents, absl::string_view fs_type) {
  return contents.kind == Kind::kFilesystem && contents.type == fs_type;
}

absl::StatusOr<FormatStep> DecideFormatted(const api::Volume& volume,
                                           const DeviceContents& contents,
                                           const std::string& fs_type) {
  const std::string& recorded = volume.format().fs_type();
  if (recorded == kBlockFormat) {
    return Refuse(volume,
                  absl::StrCat("was handed out as a raw block device and may hold data, but ",
                               fs_type, " is asked for; use it with volumeMode Block"));
  }
  if (recorded != fs_type) {
    return Refuse(volume, absl::StrCat("is formatted with ", recorded, ", but ", fs_type,
                                       " is asked for; ask for ", recorded));
  }
  if (!Holds(contents, fs_type)) {
    return Refuse(volume,
                  absl::StrCat("is formatted with ", recorded, " according to its record, but ",
                               Describe(contents),
                               " is found on it; it is not touched, repair or restore it by hand"));
  }
  return FormatStep::kMount;
}

absl::StatusOr<FormatStep> DecideImported(const api::Volume& volume, const DeviceContents& contents,
                                          const std::string& fs_type) {
  if (Holds(contents, fs_type)) return FormatStep::kRecordAndMount;
  return Refuse(
      volume, absl::StrCat("was not created here and holds ", Describe(contents), ", but ", fs_type,
                           " is asked for; it is never formatted, make the "
                           "filesystem by hand or ask for what is there"));
}

absl::StatusOr<FormatStep> DecideNever(const api::Volume& volume, const DeviceContents& contents,
                                       const std::string& fs_type) {
  if (contents.kind == Kind::kBlank && volume.content() != api::CONTENT_PRESENT) {
    return FormatStep::kFormat;
  }
  const std::string found =
      contents.kind == Kind::kBlank ? "its backend holds written data" : Describe(contents);
  return Refuse(volume, absl::StrCat("was never formatted, but ", found,
                                     contents.kind == Kind::kBlank ? "" : " is found on it",
                                     "; it is not formatted with ", fs_type,
                                     ", save the data and use a new volume"));
}

absl::StatusOr<FormatStep> DecideFormatting(const api::Volume& volume,
                                            const DeviceContents& contents) {
  switch (contents.kind) {
    case Kind::kBlank:
    case Kind::kUnknownData:
      return FormatStep::kFormatAgain;
    case Kind::kFilesystem:
      // Ours, and not somebody else's who used the device meanwhile.
      if (contents.type == volume.format().fs_type() &&
          contents.uuid == volume.format().fs_uuid()) {
        return FormatStep::kFormatAgain;
      }
      break;
    case Kind::kPartitionTable:
    case Kind::kAmbivalent:
      break;
  }
  return Refuse(volume, absl::StrCat("was being formatted with ", volume.format().fs_type(), " (",
                                     volume.format().fs_uuid(), "), but ", Describe(contents),
                                     " is found on it; it is not touched, look at it by hand"));
}

// A place among those that may run mkfs; waits for one.
class MkfsSlot {
 public:
  MkfsSlot() {
    std::unique_lock lock(Mutex());
    Freed().wait(lock, [] { return Taken() < kMaxParallelMkfs; });
    ++Taken();
  }
  ~MkfsSlot() {
    const std::lock_guard lock(Mutex());
    --Taken();
    Freed().notify_one();
  }
  MkfsSlot(const MkfsSlot&) = delete;
  MkfsSlot& operator=(const MkfsSlot&) = delete;

 private:
  static std::mutex& Mutex() {
    static auto* const mutex = new std::mutex;
    return *mutex;
  }
  static std::condition_variable& Freed() {
    static auto* const freed = new std::condition_variable;
    return *freed;
  }
  static int& Taken() {
    static int taken = 0;
    return taken;
  }
};

// No force flags. Nothing is discarded: the volume is empty, and a preallocated one would lose what
// was allocated for it.
std::vector<std::string> MkfsCommand(const std::string& fs_type, const std::string& uuid,
                                     const std::string& path) {
  if (fs_type == kXfs) return {"mkfs.xfs", "-q", "-K", "-m", absl::StrCat("uuid=", uuid), path};
  return {"mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard", "-U", uuid, path};
}

absl::Status RunMkfs(const std::string& volume_id, const std::string& fs_type,
                     const std::string& uuid, const std::string& path) {
  const MkfsSlot slot;
  const std::vector<std::string> command = MkfsCommand(fs_type, uuid, path);
  UBLKD_ASSIGN_OR_RETURN(const CommandResult result, RunCommand(volume_id, command, kMkfsDeadline));
  if (result.exit_status != 0) {
    return absl::InternalError(absl::StrCat(
        "cannot format ", path, ": \"", absl::StrJoin(command, " "), "\" ends with status ",
        result.exit_status, " and says: ", result.output, "; look at the state of the device"));
  }
  UBLKD_ASSIGN_OR_RETURN(const DeviceContents made, ProbeDevice(path));
  if (!Holds(made, fs_type) || made.uuid != uuid) {
    return absl::InternalError(absl::StrCat("cannot format ", path, ": after ", command.front(),
                                            " ", Describe(made),
                                            " is found on it; look at the "
                                            "state of the device"));
  }
  return absl::OkStatus();
}

absl::Status ClearRemains(const api::Volume& volume, const BlockDevice& device) {
  LogWarning("the remains of an interrupted mkfs are cleared", {{"volume_id", volume.id()}});
  UBLKD_RETURN_IF_ERROR(WipeSignatures(device.path));
  UBLKD_ASSIGN_OR_RETURN(const DeviceContents left, ProbeDevice(device.path));
  if (left.kind == Kind::kBlank) return absl::OkStatus();
  return Refuse(volume, absl::StrCat("still shows ", Describe(left),
                                     " after it was cleared; look at the state of its device"));
}

absl::Status Format(const UblkdClient& ublkd, const api::Volume& volume, const BlockDevice& device,
                    const std::string& fs_type, bool again) {
  if (fs_type == kXfs && device.size_bytes < kMinXfsBytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("volume ", volume.id(), " has ", device.size_bytes, " bytes and xfs needs ",
                     kMinXfsBytes, "; ask for ext4 or use a larger volume"));
  }
  // Before the record names another UUID: until then what is found is known to be ours.
  if (again) UBLKD_RETURN_IF_ERROR(ClearRemains(volume, device));
  UBLKD_ASSIGN_OR_RETURN(std::string uuid, ReadFile(kUuidPath));
  uuid = std::string(absl::StripSuffix(uuid, "\n"));
  UBLKD_RETURN_IF_ERROR(ublkd
                            .SetVolumeFormat(volume.id(), volume.format().state(),
                                             api::Format::STATE_FORMATTING, fs_type, uuid)
                            .status());
  LogInfo("volume is formatted",
          {{"volume_id", volume.id()}, {"fs_type", fs_type}, {"uuid", uuid}});
  UBLKD_RETURN_IF_ERROR(RunMkfs(volume.id(), fs_type, uuid, device.path));
  return ublkd
      .SetVolumeFormat(volume.id(), api::Format::STATE_FORMATTING, api::Format::STATE_FORMATTED,
                       fs_type, uuid)
      .status();
}

}  // namespace

absl::StatusOr<FormatStep> DecideFormat(const api::Volume& volume, const DeviceContents& contents,
                                        const std::string& fs_type, bool read_only) {
  if (contents.kind == Kind::kPartitionTable || contents.kind == Kind::kAmbivalent) {
    return Refuse(volume, absl::StrCat("holds ", Describe(contents), ", but ", fs_type,
                                       " is asked for; it is neither mounted nor formatted"));
  }
  absl::StatusOr<FormatStep> step = FormatStep::kMount;
  switch (volume.format().state()) {
    case api::Format::STATE_FORMATTED:
      step = DecideFormatted(volume, contents, fs_type);
      break;
    case api::Format::STATE_FORMATTING:
      step = DecideFormatting(volume, contents);
      break;
    case api::Format::STATE_NEVER:
      step = DecideNever(volume, contents, fs_type);
      break;
    default:
      step = DecideImported(volume, contents, fs_type);
      break;
  }
  const bool writes =
      step.ok() && (*step == FormatStep::kFormat || *step == FormatStep::kFormatAgain);
  if (writes && read_only) {
    return Refuse(volume,
                  "holds no filesystem yet and is asked for read-only; use it once with "
                  "write access");
  }
  return step;
}

std::string ChooseFilesystem(const api::Volume& volume, const std::string& asked) {
  if (!asked.empty()) return asked;
  const api::Format& format = volume.format();
  const bool known = format.fs_type() == kExt4 || format.fs_type() == kXfs;
  return format.state() == api::Format::STATE_FORMATTED && known ? format.fs_type()
                                                                 : kDefaultFilesystem;
}

absl::Status EnsureFilesystem(const UblkdClient& ublkd, const api::Volume& volume,
                              const BlockDevice& device, const std::string& fs_type,
                              bool read_only) {
  UBLKD_ASSIGN_OR_RETURN(const DeviceContents contents, ProbeDevice(device.path));
  UBLKD_ASSIGN_OR_RETURN(const FormatStep step, DecideFormat(volume, contents, fs_type, read_only));
  switch (step) {
    case FormatStep::kMount:
      if (contents.uuid != volume.format().fs_uuid()) {
        LogWarning("the filesystem has another UUID than the one it was made with",
                   {{"volume_id", volume.id()},
                    {"found", contents.uuid},
                    {"recorded", volume.format().fs_uuid()}});
      }
      return absl::OkStatus();
    case FormatStep::kRecordAndMount:
      return ublkd
          .SetVolumeFormat(volume.id(), volume.format().state(), api::Format::STATE_FORMATTED,
                           fs_type, contents.uuid)
          .status();
    case FormatStep::kFormat:
      return Format(ublkd, volume, device, fs_type, /*again=*/false);
    case FormatStep::kFormatAgain:
      return Format(ublkd, volume, device, fs_type, /*again=*/true);
  }
  return absl::InternalError("unknown format step");
}

absl::Status MarkAsBlock(const UblkdClient& ublkd, const api::Volume& volume) {
  // A volume with a filesystem may be read raw, for a backup; its record stays as it is.
  if (volume.format().state() == api::Format::STATE_FORMATTED) return absl::OkStatus();
  return ublkd
      .SetVolumeFormat(volume.id(), volume.format().state(), api::Format::STATE_FORMATTED,
                       kBlockFormat, "")
      .status();
}

}  // namespace ublkd::csi
