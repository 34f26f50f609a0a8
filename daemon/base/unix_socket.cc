// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd {
namespace {

constexpr mode_t kSocketMode = 0600;
constexpr int kBacklog = 16;

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path \"", path, "\": must have 1 to ",
                                                   sizeof(address.sun_path) - 1,
                                                   " bytes; choose another"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> MakeSocket() {
  UniqueFd made(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.valid()) return ErrnoStatus(errno, "cannot make a unix socket");
  return made;
}

}  // namespace

absl::StatusOr<UniqueFd> DialUnixSocket(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  UBLKD_ASSIGN_OR_RETURN(UniqueFd made, MakeSocket());
  if (connect(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return made;
  }
  const int error = errno;
  if (error == ECONNREFUSED || error == EAGAIN) {
    return absl::UnavailableError(absl::StrCat("nobody listens on ", path));
  }
  return ErrnoStatus(error, absl::StrCat("cannot connect to ", path));
}

absl::StatusOr<UniqueFd> ListenOnUnixSocket(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  UBLKD_ASSIGN_OR_RETURN(UniqueFd made, MakeSocket());
  struct stat there;
  if (lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot listen on ", path, ": it is not a socket; choose another path"));
    }
    if (unlink(path.c_str()) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot remove the old ", path));
    }
  }
  // The mode of the descriptor is that of the file, from its first moment on.
  if (fchmod(made.get(), kSocketMode) != 0 ||
      bind(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(made.get(), kBacklog) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot listen on ", path));
  }
  return made;
}

}  // namespace ublkd
