// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "daemon/base/file.h"

/// Plain stream sockets between programs of one machine. All descriptors never block.
namespace ublkd {

/// NOT_FOUND no such socket, UNAVAILABLE nobody listens there; INVALID_ARGUMENT the path is too
/// long for a socket.
absl::StatusOr<UniqueFd> DialUnixSocket(const std::string& path);

/// Listens on `path` with mode 0600, in the place of whatever socket was there: the caller has made
/// sure that nobody listens on that.
absl::StatusOr<UniqueFd> ListenOnUnixSocket(const std::string& path);

}  // namespace ublkd
