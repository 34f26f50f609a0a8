// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/file.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/status.h"

namespace ublkd {
namespace {

std::string ParentOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

absl::Status SyncDirectory(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd folder, OpenFile(path, O_RDONLY | O_DIRECTORY));
  if (fsync(folder.get()) != 0) return ErrnoStatus(errno, absl::StrCat("cannot sync ", path));
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, const std::string& path, absl::string_view content) {
  while (!content.empty()) {
    const ssize_t written = write(fd, content.data(), content.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, absl::StrCat("cannot write ", path));
    }
    content.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status WriteAndSync(const std::string& path, absl::string_view content, mode_t mode) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file,
                         OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode));
  UBLKD_RETURN_IF_ERROR(WriteAll(file.get(), path, content));
  if (fsync(file.get()) != 0) return ErrnoStatus(errno, absl::StrCat("cannot sync ", path));
  return absl::OkStatus();
}

}  // namespace

void UniqueFd::Reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode) {
  UniqueFd file(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!file.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  return file;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDONLY));
  std::string content;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t got = read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
    if (got == 0) return content;
    content.append(piece.data(), static_cast<size_t>(got));
  }
}

std::optional<dev_t> ParseDeviceNumber(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> halves =
      absl::StrSplit(absl::StripTrailingAsciiWhitespace(text), absl::MaxSplits(':', 1));
  unsigned device_major = 0;
  unsigned device_minor = 0;
  if (!absl::SimpleAtoi(halves.first, &device_major) ||
      !absl::SimpleAtoi(halves.second, &device_minor)) {
    return std::nullopt;
  }
  return makedev(device_major, device_minor);
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view content, mode_t mode) {
  const std::string temporary = absl::StrCat(path, ".new");
  if (absl::Status status = WriteAndSync(temporary, content, mode); !status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(temporary.c_str());
    return ErrnoStatus(error, absl::StrCat("cannot replace ", path));
  }
  return SyncDirectory(ParentOf(path));
}

absl::Status RemoveFile(const std::string& path) {
  if (unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("cannot remove ", path));
  }
  return SyncDirectory(ParentOf(path));
}

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  std::string made;
  for (const std::filesystem::path& part : std::filesystem::path(path)) {
    made = made.empty() ? part.string() : (std::filesystem::path(made) / part).string();
    if (mkdir(made.c_str(), mode) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, absl::StrCat("cannot make folder ", made));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  std::filesystem::directory_iterator entry(path, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename());
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("cannot list ", path));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace ublkd
