// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/backing_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/base/status.h"

namespace ublkd::target {
namespace {

constexpr uint32_t kSmallBlockBytes = 512;
constexpr uint32_t kLargeBlockBytes = 4096;
constexpr absl::Duration kLockPause = absl::Milliseconds(2);
constexpr mode_t kAnyWrite = S_IWUSR | S_IWGRP | S_IWOTH;

absl::Status CheckOptions(const FileTargetOptions& options) {
  if (options.path.empty() || options.path.front() != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("path '", options.path, "': must be absolute; begin it with /"));
  }
  const uint32_t block = options.logical_block_bytes;
  if (block != 0 && block != kSmallBlockBytes && block != kLargeBlockBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("logical block size ", block, ": must be 512 or 4096, or 0 to choose"));
  }
  return absl::OkStatus();
}

absl::Status NoDisk(const std::string& path, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(path, ": ", why));
}

absl::Status CheckKind(const FileTargetOptions& options, const struct stat& about) {
  if (S_ISDIR(about.st_mode)) {
    return NoDisk(options.path, "it is a directory; name a file or block device");
  }
  if (!S_ISREG(about.st_mode) && !S_ISBLK(about.st_mode)) {
    return NoDisk(options.path, "it is neither a regular file nor a block device");
  }
  // Root may write to it all the same, but its owner has said no.
  if (S_ISREG(about.st_mode) && !options.read_only && (about.st_mode & kAnyWrite) == 0) {
    return NoDisk(options.path, "the file is read-only; make it writable or the device read-only");
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> TryToOpenAndLock(const FileTargetOptions& options, bool is_block_device) {
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  // Without O_CREAT, O_EXCL is the claim on a block device, and nothing for a file.
  UniqueFd fd(open(options.path.c_str(), access | O_CLOEXEC | (is_block_device ? O_EXCL : 0)));
  if (!fd.valid()) {
    switch (errno) {
      case EBUSY:
        return absl::AlreadyExistsError(absl::StrCat(
            options.path, ": it is mounted or used by another device; release it first"));
      case EROFS:
      case EPERM:
        return NoDisk(options.path, "it cannot be written; make the device read-only");
      default:
        return ErrnoStatus(errno, absl::StrCat("open ", options.path));
    }
  }
  const int lock = options.read_only && !is_block_device ? LOCK_SH : LOCK_EX;
  if (flock(fd.get(), lock | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return absl::AlreadyExistsError(
          absl::StrCat(options.path, ": another device serves it; detach that one first"));
    }
    return ErrnoStatus(errno, absl::StrCat("lock ", options.path));
  }
  return fd;
}

absl::StatusOr<UniqueFd> OpenAndLock(const FileTargetOptions& options, bool is_block_device) {
  const absl::Time deadline = absl::Now() + options.wait;
  while (true) {
    absl::StatusOr<UniqueFd> fd = TryToOpenAndLock(options, is_block_device);
    if (!absl::IsAlreadyExists(fd.status()) || absl::Now() >= deadline) return fd;
    absl::SleepFor(kLockPause);
  }
}

/// Whether O_DIRECT, which is set on the descriptor, takes transfers of this size.
bool DirectWorks(int fd, uint32_t block_bytes) {
  const std::unique_ptr<void, decltype(&std::free)> block(
      std::aligned_alloc(kLargeBlockBytes, kLargeBlockBytes), &std::free);
  ssize_t result = 0;
  do {
    result = pread(fd, block.get(), block_bytes, 0);
  } while (result < 0 && errno == EINTR);
  return result >= 0;
}

void SetDirect(int fd, bool direct) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT);
}

/// Chooses the block size where none was asked for, and direct I/O where it works.
void ChooseBlock(const FileTargetOptions& options, BackingFile& backing) {
  uint32_t& block = backing.geometry.logical_block_bytes;
  SetDirect(backing.fd.get(), true);
  const bool can_direct = (fcntl(backing.fd.get(), F_GETFL) & O_DIRECT) != 0;
  const std::array<uint32_t, 2> sizes = {kSmallBlockBytes, kLargeBlockBytes};
  for (const uint32_t size : sizes) {
    if (options.logical_block_bytes != 0 && size != options.logical_block_bytes) continue;
    if (can_direct && DirectWorks(backing.fd.get(), size)) {
      block = size;
      backing.direct = true;
      // Every page that is still cached would make a direct write wait for its removal.
      posix_fadvise(backing.fd.get(), 0, 0, POSIX_FADV_DONTNEED);
      return;
    }
  }
  block = options.logical_block_bytes != 0 ? options.logical_block_bytes : kSmallBlockBytes;
  SetDirect(backing.fd.get(), false);
}

/// The folder that an open file is in; empty when it is not to be seen from here.
std::string FolderOf(int fd) {
  std::error_code error;
  const auto path = std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", fd), error);
  return error ? "" : path.parent_path().string();
}

/// Whether the filesystem of a file has such a fallocate. Tries on an unnamed file beside it, so
/// that the file itself is not touched; one that is full says nothing of what it can do.
bool FilesystemCan(int fd, dev_t device, int fallocate_mode) {
  const UniqueFd probe(open(FolderOf(fd).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!probe.valid()) return errno == ENOSPC || errno == EDQUOT;
  struct stat about;
  // Something may be mounted over the file alone.
  if (fstat(probe.get(), &about) != 0 || about.st_dev != device) return false;
  if (ftruncate(probe.get(), kLargeBlockBytes) != 0) return false;
  return fallocate(probe.get(), fallocate_mode, 0, kLargeBlockBytes) == 0 || errno != EOPNOTSUPP;
}

/// Of memory for direct I/O; 0 when the kernel does not tell.
uint32_t MemoryAlignment(int fd) {
  struct statx about;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) != 0) return 0;
  return (about.stx_mask & STATX_DIOALIGN) != 0 ? about.stx_dio_mem_align : 0;
}

/// The number in a file of the block device's queue folder; 0 without one. A partition's queue is
/// that of its disk.
uint64_t QueueLimit(dev_t device, absl::string_view name) {
  const std::string folder = absl::StrCat("/sys/dev/block/", major(device), ":", minor(device));
  for (const char* queue : {"/queue/", "/../queue/"}) {
    uint64_t value = 0;
    const auto text = ReadFile(absl::StrCat(folder, queue, name));
    if (text.ok() && absl::SimpleAtoi(absl::StripSuffix(*text, "\n"), &value)) return value;
  }
  return 0;
}

absl::Status DescribeFile(const FileTargetOptions& options, const struct stat& about,
                          BackingFile& backing) {
  ublk::Geometry& geometry = backing.geometry;
  ChooseBlock(options, backing);
  const auto file_block = static_cast<uint32_t>(
      std::clamp<blksize_t>(about.st_blksize, geometry.logical_block_bytes, kLargeBlockBytes));
  geometry.physical_block_bytes = std::bit_floor(file_block);
  const auto can = [&](int mode) {
    return FilesystemCan(backing.fd.get(), about.st_dev, mode | FALLOC_FL_KEEP_SIZE);
  };
  const bool can_punch = can(FALLOC_FL_PUNCH_HOLE);
  backing.can_zero_range = can(FALLOC_FL_ZERO_RANGE);
  backing.keep_space = options.keep_space;
  geometry.can_discard = can_punch && !options.keep_space;
  geometry.can_write_zeroes = options.keep_space ? backing.can_zero_range : can_punch;
  return absl::OkStatus();
}

absl::Status DescribeBlockDevice(const FileTargetOptions& options, const struct stat& about,
                                 BackingFile& backing) {
  ublk::Geometry& geometry = backing.geometry;
  const int fd = backing.fd.get();
  int read_only = 0;
  int sector_bytes = 0;
  unsigned physical_bytes = 0;
  if (ioctl(fd, BLKROGET, &read_only) != 0 || ioctl(fd, BLKSSZGET, &sector_bytes) != 0 ||
      ioctl(fd, BLKPBSZGET, &physical_bytes) != 0) {
    return ErrnoStatus(errno, absl::StrCat("look at the block device ", options.path));
  }
  if (read_only != 0 && !options.read_only) {
    return NoDisk(options.path, "the block device is read-only; make the device read-only too");
  }
  ChooseBlock(options, backing);
  geometry.physical_block_bytes = std::max(geometry.logical_block_bytes, physical_bytes);
  geometry.rotational = QueueLimit(about.st_rdev, "rotational") != 0;
  // A hole in a block device is made by its write-zeroes command, and only by that.
  geometry.can_write_zeroes = QueueLimit(about.st_rdev, "write_zeroes_max_bytes") != 0;
  geometry.can_discard = geometry.can_write_zeroes;
  backing.can_zero_range = geometry.can_write_zeroes;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint64_t> SizeOf(int fd) {
  struct stat about;
  if (fstat(fd, &about) != 0) return ErrnoStatus(errno, "look at an open file");
  if (!S_ISBLK(about.st_mode)) return static_cast<uint64_t>(about.st_size);
  uint64_t size_bytes = 0;
  if (ioctl(fd, BLKGETSIZE64, &size_bytes) != 0) {
    return ErrnoStatus(errno, "ask for the size of a block device");
  }
  return size_bytes;
}

absl::StatusOr<BackingFile> OpenBackingFile(const FileTargetOptions& options) {
  UBLKD_RETURN_IF_ERROR(CheckOptions(options));
  struct stat about;
  if (stat(options.path.c_str(), &about) != 0) {
    return ErrnoStatus(errno, options.path, "create it or correct the path");
  }
  UBLKD_RETURN_IF_ERROR(CheckKind(options, about));

  BackingFile backing;
  const bool is_block_device = S_ISBLK(about.st_mode);
  UBLKD_ASSIGN_OR_RETURN(backing.fd, OpenAndLock(options, is_block_device));
  // It may have been replaced between the look and the opening.
  if (fstat(backing.fd.get(), &about) != 0 || S_ISBLK(about.st_mode) != is_block_device) {
    return NoDisk(options.path, "it was replaced while it was opened; try again");
  }
  UBLKD_RETURN_IF_ERROR(is_block_device ? DescribeBlockDevice(options, about, backing)
                                        : DescribeFile(options, about, backing));
  ublk::Geometry& geometry = backing.geometry;
  UBLKD_ASSIGN_OR_RETURN(geometry.size_bytes, SizeOf(backing.fd.get()));
  if (geometry.size_bytes == 0) return NoDisk(options.path, "its size is 0; make it larger");
  if (geometry.size_bytes % geometry.logical_block_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.path, ": its size ", geometry.size_bytes, " is no multiple of the block size ",
        geometry.logical_block_bytes, "; resize it or use another block size"));
  }
  geometry.read_only = options.read_only;
  const uint32_t alignment = backing.direct ? MemoryAlignment(backing.fd.get()) : 0;
  if (alignment > kSmallBlockBytes && alignment <= kLargeBlockBytes) {
    geometry.memory_alignment_bytes = alignment;
  }
  // The disk below may have a cache, and without O_DIRECT there is the page cache.
  geometry.volatile_cache = true;
  return backing;
}

uint64_t EndOfFile(int fd) {
  struct statx about;
  const int flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  if (statx(fd, "", flags, STATX_TYPE | STATX_SIZE, &about) != 0) return kNoEnd;
  return S_ISREG(about.stx_mode) ? about.stx_size : kNoEnd;
}

}  // namespace ublkd::target
