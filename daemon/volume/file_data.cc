// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/file_data.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::volume {
namespace {

// st_blocks counts in these whatever the filesystem's block size is.
constexpr uint64_t kStatBlockBytes = 512;

// ENXIO from SEEK_DATA means that there is none.
Content SeekForData(int fd) {
  if (lseek(fd, 0, SEEK_DATA) >= 0) return Content::kPresent;
  return errno == ENXIO ? Content::kEmpty : Content::kUnknown;
}

absl::Status TooLarge(uint64_t size_bytes) {
  return absl::InvalidArgumentError(absl::StrCat("size_bytes: ", size_bytes,
                                                 " is more than a file may have on this "
                                                 "filesystem; ask for less"));
}

absl::Status SetSize(int fd, uint64_t size_bytes) {
  if (ftruncate(fd, static_cast<off_t>(size_bytes)) == 0) return absl::OkStatus();
  if (errno == EFBIG || errno == EINVAL) return TooLarge(size_bytes);
  return ErrnoStatus(errno, "cannot set the size");
}

absl::Status Preallocate(int fd, uint64_t from_bytes, uint64_t size_bytes) {
  int result = 0;
  do {
    result = fallocate(fd, 0, static_cast<off_t>(from_bytes),
                       static_cast<off_t>(size_bytes - from_bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return absl::OkStatus();
  if (errno == EFBIG) return TooLarge(size_bytes);
  if (errno == EOPNOTSUPP) {
    return absl::FailedPreconditionError(
        "cannot preallocate: the filesystem does not offer it; ask for a thin volume");
  }
  return ErrnoStatus(errno, "cannot preallocate", "ask for less or make room");
}

absl::Status Sync(int fd) {
  return fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "cannot sync");
}

}  // namespace

absl::Status GiveSize(int fd, uint64_t size_bytes, Provisioning provisioning) {
  UBLKD_RETURN_IF_ERROR(SetSize(fd, size_bytes));
  if (provisioning == Provisioning::kThick) UBLKD_RETURN_IF_ERROR(Preallocate(fd, 0, size_bytes));
  return Sync(fd);
}

absl::Status Grow(int fd, uint64_t from_bytes, uint64_t size_bytes, Provisioning provisioning) {
  if (provisioning == Provisioning::kThick) {
    UBLKD_RETURN_IF_ERROR(Preallocate(fd, from_bytes, size_bytes));
  } else {
    UBLKD_RETURN_IF_ERROR(SetSize(fd, size_bytes));
  }
  return Sync(fd);
}

absl::Status CutBack(int fd, uint64_t size_bytes) {
  struct stat facts;
  if (fstat(fd, &facts) != 0) return ErrnoStatus(errno, "cannot look at the file");
  if (static_cast<uint64_t>(facts.st_size) <= size_bytes) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(SetSize(fd, size_bytes));
  return Sync(fd);
}

uint64_t AllocatedBytes(const struct stat& facts) {
  return static_cast<uint64_t>(facts.st_blocks) * kStatBlockBytes;
}

Content FindContent(int fd, bool drop_cache) {
  const Content content = SeekForData(fd);
  if (content != Content::kPresent || !drop_cache) return content;
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  return SeekForData(fd);
}

bool TellsHolesFromData(const OwnedDirectory& directory, Provisioning provisioning) {
  constexpr uint64_t kProbeBytes = 64 << 10;
  if (!directory.Remove(kProbeFile).ok()) return false;
  const absl::StatusOr<UniqueFd> file = directory.CreateNew(kProbeFile);
  if (!file.ok()) return false;
  // Cannot be found any more, so a kill from here on leaves nothing.
  if (unlinkat(directory.fd(), std::string(kProbeFile).c_str(), 0) != 0) return false;
  if (!GiveSize(file->get(), kProbeBytes, provisioning).ok()) return false;
  if (FindContent(file->get(), /*drop_cache=*/true) != Content::kEmpty) return false;
  constexpr char kByte = 'x';
  if (pwrite(file->get(), &kByte, sizeof(kByte), kProbeBytes / 2) != sizeof(kByte)) return false;
  return FindContent(file->get(), /*drop_cache=*/true) == Content::kPresent;
}

}  // namespace ublkd::volume
