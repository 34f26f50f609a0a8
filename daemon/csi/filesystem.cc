// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/filesystem.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/csi/blockdev.h"
#include "daemon/csi/child.h"
#include "daemon/csi/usage.h"

namespace ublkd::csi {
namespace {

constexpr std::chrono::minutes kCheckDeadline{10};
constexpr std::chrono::minutes kGrowDeadline{10};
// Exit status of e2fsck: bits for "errors corrected" and "reboot" (meant for a root filesystem).
constexpr int kCheckCorrectedBits = 3;
constexpr int kCannotExecute = 127;

// mkfs leaves a rest of the device unused when it is too small for another group (ext4) or
// allocation group (xfs); a smaller difference than this is no reason to grow.
constexpr uint64_t kExt4SlackBytes = 8ULL * 1024 * 1024;
constexpr uint64_t kXfsSlackBytes = 16ULL * 1024 * 1024;

// Layout of the superblocks, from the documentation of ext4 (Documentation/filesystems/ext4) and of
// xfs (xfs_algorithms_structs): offsets in bytes. ext4 is little-endian, xfs big-endian.
constexpr off_t kExt4Offset = 1024;
constexpr size_t kSuperblockBytes = 1024;
constexpr size_t kExt4BlocksLow = 0x4;
constexpr size_t kExt4LogBlockSize = 0x18;
constexpr size_t kExt4Magic = 0x38;
constexpr size_t kExt4State = 0x3a;
constexpr size_t kExt4Incompatible = 0x60;
constexpr size_t kExt4BlocksHigh = 0x150;
constexpr uint64_t kExt4MagicValue = 0xef53;
constexpr uint64_t kExt4StateClean = 0x1;
constexpr uint64_t kExt4StateErrors = 0x2;
constexpr uint64_t kExt4IncompatRecover = 0x4;
constexpr uint64_t kExt4Incompat64Bit = 0x80;
constexpr uint64_t kExt4MinBlockBytes = 1024;
constexpr uint64_t kExt4MaxLogBlockSize = 6;
constexpr size_t kXfsMagic = 0;
constexpr size_t kXfsBlockSize = 4;
constexpr size_t kXfsBlocks = 8;
constexpr uint64_t kXfsMagicValue = 0x58465342;

using Bytes = std::array<unsigned char, kSuperblockBytes>;

uint64_t Little(const Bytes& bytes, size_t offset, size_t size) {
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | bytes[offset + i];
  return value;
}

uint64_t Big(const Bytes& bytes, size_t offset, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | bytes[offset + i];
  return value;
}

absl::Status NoSuperblock(const std::string& path, const std::string& fs_type) {
  return absl::DataLossError(absl::StrCat("the superblock of ", path, " is no valid ", fs_type,
                                          " superblock; repair it by hand"));
}

absl::StatusOr<Superblock> ParseExt4(const Bytes& bytes, const std::string& path) {
  const uint64_t log_block_size = Little(bytes, kExt4LogBlockSize, 4);
  if (Little(bytes, kExt4Magic, 2) != kExt4MagicValue || log_block_size > kExt4MaxLogBlockSize) {
    return NoSuperblock(path, kExt4);
  }
  const uint64_t incompatible = Little(bytes, kExt4Incompatible, 4);
  const uint64_t state = Little(bytes, kExt4State, 2);
  uint64_t blocks = Little(bytes, kExt4BlocksLow, 4);
  if ((incompatible & kExt4Incompat64Bit) != 0) blocks |= Little(bytes, kExt4BlocksHigh, 4) << 32;
  const bool clean = (state & kExt4StateClean) != 0 && (state & kExt4StateErrors) == 0 &&
                     (incompatible & kExt4IncompatRecover) == 0;
  return Superblock{blocks * (kExt4MinBlockBytes << log_block_size), !clean};
}

absl::StatusOr<Superblock> ParseXfs(const Bytes& bytes, const std::string& path) {
  if (Big(bytes, kXfsMagic, 4) != kXfsMagicValue) return NoSuperblock(path, kXfs);
  return Superblock{Big(bytes, kXfsBlocks, 8) * Big(bytes, kXfsBlockSize, 4), false};
}

absl::StatusOr<Superblock> ReadSuperblockFrom(int fd, const std::string& path,
                                              const std::string& fs_type) {
  Bytes bytes{};
  const off_t offset = fs_type == kXfs ? 0 : kExt4Offset;
  if (pread(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
    return ErrnoStatus(errno, absl::StrCat("cannot read the superblock of ", path));
  }
  return fs_type == kXfs ? ParseXfs(bytes, path) : ParseExt4(bytes, path);
}

absl::Status CheckExt4(const std::string& owner, const std::string& path, bool force) {
  std::vector<std::string> arguments = {"e2fsck", "-p"};
  if (force) arguments.emplace_back("-f");
  arguments.push_back(path);
  UBLKD_ASSIGN_OR_RETURN(const CommandResult result, RunCommand(owner, arguments, kCheckDeadline));
  if ((result.exit_status & ~kCheckCorrectedBits) == 0) {
    LogInfo("filesystem is checked", {{"volume_id", owner},
                                      {"device", path},
                                      {"exit_status", result.exit_status},
                                      {"output", result.output}});
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrCat("the ext4 filesystem on ", path, " is damaged: e2fsck -p ends with status ",
                   result.exit_status, " and says: ", result.output,
                   "; attach the volume with ublkctl and repair it by hand"));
}

absl::Status RunGrow(const std::string& owner, const std::vector<std::string>& arguments) {
  UBLKD_ASSIGN_OR_RETURN(const CommandResult result, RunCommand(owner, arguments, kGrowDeadline));
  if (result.exit_status == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot grow the filesystem on ", arguments.back(), ": ",
                                          arguments.front(), " ends with status ",
                                          result.exit_status, " and says: ", result.output));
}

}  // namespace

absl::StatusOr<Superblock> ReadSuperblock(const std::string& path, const std::string& fs_type) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenExclusively(path, O_RDONLY));
  return ReadSuperblockFrom(file.get(), path, fs_type);
}

absl::Status PrepareFilesystem(const std::string& owner, const std::string& path,
                               const std::string& fs_type) {
  if (fs_type != kExt4) return absl::OkStatus();
  uint64_t device_bytes = 0;
  Superblock superblock;
  {
    UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenExclusively(path, O_RDONLY));
    UBLKD_ASSIGN_OR_RETURN(device_bytes, DeviceSizeBytes(file.get()));
    UBLKD_ASSIGN_OR_RETURN(superblock, ReadSuperblockFrom(file.get(), path, fs_type));
  }
  const bool grow = superblock.size_bytes + kExt4SlackBytes <= device_bytes;
  // resize2fs takes only a filesystem that was checked in full.
  if (grow || superblock.needs_check) UBLKD_RETURN_IF_ERROR(CheckExt4(owner, path, grow));
  if (!grow) return absl::OkStatus();
  LogInfo(
      "filesystem grows",
      {{"volume_id", owner}, {"from_bytes", superblock.size_bytes}, {"to_bytes", device_bytes}});
  return RunGrow(owner, {"resize2fs", path});
}

absl::Status GrowMounted(const std::string& owner, const std::string& path,
                         const std::string& mount_point, const std::string& fs_type) {
  if (fs_type != kXfs) return absl::OkStatus();
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDONLY));
  UBLKD_ASSIGN_OR_RETURN(const uint64_t device_bytes, DeviceSizeBytes(file.get()));
  UBLKD_ASSIGN_OR_RETURN(const Superblock superblock,
                         ReadSuperblockFrom(file.get(), path, fs_type));
  if (superblock.size_bytes + kXfsSlackBytes > device_bytes) return absl::OkStatus();
  LogInfo(
      "filesystem grows",
      {{"volume_id", owner}, {"from_bytes", superblock.size_bytes}, {"to_bytes", device_bytes}});
  return RunGrow(owner, {"xfs_growfs", "-d", mount_point});
}

}  // namespace ublkd::csi
