// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/owned_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::volume {
namespace {

constexpr mode_t kFileMode = 0600;

struct FreeDeleter {
  void operator()(char* text) const { free(text); }
};

// The path without symbolic links, so that it can be compared with other paths.
absl::StatusOr<std::string> Canonical(const std::string& path) {
  const std::unique_ptr<char, FreeDeleter> real(realpath(path.c_str(), nullptr));
  if (real == nullptr) {
    return ErrnoStatus(errno, absl::StrCat("cannot use ", path),
                       "make the folder or mount its filesystem first");
  }
  return std::string(real.get());
}

absl::Status CheckOwner(int folder, const std::string& path) {
  struct stat facts;
  if (fstat(folder, &facts) != 0) return ErrnoStatus(errno, absl::StrCat("cannot look at ", path));
  if ((facts.st_mode & S_IWOTH) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("cannot use ", path, ": every user may write there; chmod o-w it"));
}

}  // namespace

absl::StatusOr<OwnedDirectory> OwnedDirectory::OpenToRead(const std::string& path) {
  if (!absl::StartsWith(path, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot use \"", path, "\": the path is relative; give an absolute one"));
  }
  UBLKD_ASSIGN_OR_RETURN(std::string real, Canonical(path));
  UBLKD_ASSIGN_OR_RETURN(UniqueFd folder, OpenFile(real, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  UBLKD_RETURN_IF_ERROR(CheckOwner(folder.get(), real));
  return OwnedDirectory(std::move(real), std::move(folder));
}

absl::StatusOr<OwnedDirectory> OwnedDirectory::Open(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(OwnedDirectory directory, OpenToRead(path));
  if (flock(directory.fd(), LOCK_EX | LOCK_NB) == 0) return directory;
  if (errno != EWOULDBLOCK)
    return ErrnoStatus(errno, absl::StrCat("cannot lock ", directory.path()));
  return absl::FailedPreconditionError(absl::StrCat(
      "cannot use ", directory.path(), ": another ublkd uses it; stop that one first"));
}

std::string OwnedDirectory::PathOf(absl::string_view name) const {
  return absl::StrCat(path_, path_ == "/" ? "" : "/", name);
}

absl::StatusOr<UniqueFd> OwnedDirectory::OpenRegular(absl::string_view name, int flags) const {
  // O_NONBLOCK: opening a FIFO must not wait for its other end.
  constexpr int kSafe = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  UniqueFd file(openat(folder_.get(), std::string(name).c_str(), flags | kSafe));
  const int error = errno;
  const auto not_regular = [&] {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot use ", PathOf(name),
                     ": it is not a regular file; somebody put it there, remove it"));
  };
  if (!file.valid() && (error == ELOOP || error == EISDIR || error == ENXIO)) return not_regular();
  if (!file.valid()) return ErrnoStatus(error, absl::StrCat("cannot open ", PathOf(name)));
  struct stat facts;
  if (fstat(file.get(), &facts) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot look at ", PathOf(name)));
  }
  if (!S_ISREG(facts.st_mode)) return not_regular();
  return file;
}

absl::StatusOr<UniqueFd> OwnedDirectory::CreateNew(absl::string_view name) const {
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  UniqueFd file(openat(folder_.get(), std::string(name).c_str(), kFlags, kFileMode));
  if (!file.valid()) return ErrnoStatus(errno, absl::StrCat("cannot make ", PathOf(name)));
  return file;
}

absl::StatusOr<std::optional<struct stat>> OwnedDirectory::Look(absl::string_view name) const {
  struct stat facts;
  if (fstatat(folder_.get(), std::string(name).c_str(), &facts, AT_SYMLINK_NOFOLLOW) == 0) {
    return facts;
  }
  if (errno == ENOENT) return std::nullopt;
  return ErrnoStatus(errno, absl::StrCat("cannot look at ", PathOf(name)));
}

absl::StatusOr<std::string> OwnedDirectory::Read(absl::string_view name) const {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenRegular(name, O_RDONLY));
  std::string content;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t got = read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", PathOf(name)));
    if (got == 0) return content;
    content.append(piece.data(), static_cast<size_t>(got));
  }
}

absl::Status OwnedDirectory::Write(absl::string_view name, absl::string_view content) const {
  return WriteFileAtomically(PathOf(name), content, kFileMode);
}

absl::Status OwnedDirectory::Rename(absl::string_view from, absl::string_view to) const {
  if (renameat(folder_.get(), std::string(from).c_str(), folder_.get(), std::string(to).c_str()) !=
      0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", PathOf(from), " to ", to));
  }
  return Sync();
}

absl::Status OwnedDirectory::Remove(absl::string_view name) const {
  if (unlinkat(folder_.get(), std::string(name).c_str(), 0) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("cannot remove ", PathOf(name)));
  }
  return Sync();
}

absl::Status OwnedDirectory::Sync() const {
  if (fsync(folder_.get()) != 0) return ErrnoStatus(errno, absl::StrCat("cannot sync ", path_));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> OwnedDirectory::List() const {
  return ListDirectory(path_);
}

}  // namespace ublkd::volume
