// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/base/file.h"

namespace ublkd::volume {

/// A folder that one ublkd owns, and the file operations that are safe in it. Every `name` is one
/// path component; a symbolic link under it is never followed, and what is opened is a regular file
/// or refused. Any thread.
class OwnedDirectory {
 public:
  /// NOT_FOUND when there is no such folder, INVALID_ARGUMENT for a relative path,
  /// FAILED_PRECONDITION when other users may write there or another ublkd uses it.
  static absl::StatusOr<OwnedDirectory> Open(const std::string& path);
  /// To look into another's folder: it is not locked.
  static absl::StatusOr<OwnedDirectory> OpenToRead(const std::string& path);

  const std::string& path() const { return path_; }
  std::string PathOf(absl::string_view name) const;

  /// Opens a regular file. NOT_FOUND; FAILED_PRECONDITION for a symbolic link or anything else that
  /// is no regular file. `flags` is O_RDONLY or O_RDWR.
  absl::StatusOr<UniqueFd> OpenRegular(absl::string_view name, int flags) const;
  /// Makes a file that was not there; ALREADY_EXISTS when anything has the name.
  absl::StatusOr<UniqueFd> CreateNew(absl::string_view name) const;
  /// What is under the name, not following a symbolic link; nullopt for nothing.
  absl::StatusOr<std::optional<struct stat>> Look(absl::string_view name) const;
  absl::StatusOr<std::string> Read(absl::string_view name) const;
  /// Durable replacement; see WriteFileAtomically.
  absl::Status Write(absl::string_view name, absl::string_view content) const;
  /// Durable when it answers.
  absl::Status Rename(absl::string_view from, absl::string_view to) const;
  /// Durable when it answers; a file that is not there is success.
  absl::Status Remove(absl::string_view name) const;
  absl::Status Sync() const;
  absl::StatusOr<std::vector<std::string>> List() const;

  /// Of the folder itself.
  int fd() const { return folder_.get(); }

 private:
  OwnedDirectory(std::string path, UniqueFd folder)
      : path_(std::move(path)), folder_(std::move(folder)) {}

  std::string path_;
  // Holds the lock that keeps another ublkd away, unless it was opened to read.
  UniqueFd folder_;
};

}  // namespace ublkd::volume
