// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd {

/// Owns a file descriptor and closes it.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  /// Gives the descriptor up without closing it.
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1);

 private:
  int fd_ = -1;
};

/// open(2) with O_CLOEXEC; the error names the path.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode = 0600);

/// The whole of a small file (proc, sysfs, records).
absl::StatusOr<std::string> ReadFile(const std::string& path);

/// A device number as sysfs and mountinfo write it: "8:17", a newline may follow.
std::optional<dev_t> ParseDeviceNumber(absl::string_view text);

/// Replaces `path` so that after a crash at any moment it holds either the old content or the new:
/// a temporary file beside it is written, synced and renamed, and the folder is synced.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view content,
                                 mode_t mode = 0600);

/// Removes a file durably; one that is not there is success.
absl::Status RemoveFile(const std::string& path);

/// Makes the folder and those above it.
absl::Status MakeDirectories(const std::string& path, mode_t mode = 0755);

/// Names in a folder, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);

}  // namespace ublkd
