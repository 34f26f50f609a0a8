// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/client.h"

#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "daemon/base/rpc.h"
#include "daemon/base/version.h"
#include "daemon/ctl/outcome.h"

namespace ublkd::ctl {
namespace {

// What to do about a socket that cannot be connected to for this errno.
const char* Remedy(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return "start ublkd, or name its socket with --socket or UBLKD_SOCKET";
    case ECONNREFUSED:
      return "ublkd has ended and left the socket behind; start ublkd";
    case EACCES:
    case EPERM:
      return "run ublkctl as root";
    default:
      return "check that --socket or UBLKD_SOCKET names ublkd's socket";
  }
}

// Whether a call of ublkd answered with the status, and not the gRPC library in its place.
bool CameFromServer(const grpc::Status& answer, const grpc::ClientContext& context) {
  // What the library of a server answers that ends without waiting for its calls.
  constexpr absl::string_view kEnding = "Cancelling all calls";
  if (answer.error_message() == kEnding) return false;
  return absl::StrContains(context.debug_error_string(), "received from peer");
}

absl::Status Refusal(const grpc::Status& answer) {
  if (!answer.error_message().empty()) return FromGrpc(answer);
  if (answer.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    return absl::UnimplementedError(absl::StrCat(
        "ublkd does not know this call: it is older than ublkctl ", kVersion, "; upgrade ublkd"));
  }
  const absl::StatusCode code = FromGrpc(answer).code();
  return absl::Status(code, absl::StrCat("ublkd refused with ", absl::StatusCodeToString(code),
                                         " and gave no reason; look at its log"));
}

}  // namespace

absl::Status Client::Connect() {
  if (channel_ != nullptr) return absl::OkStatus();
  // gRPC tells only "failed to connect"; connecting by hand first gives the reason.
  const int error = TryToConnect(socket_);
  if (error == EINVAL || error == ENAMETOOLONG) {
    return UsageError(absl::StrCat("--socket \"", socket_,
                                   "\" cannot be a socket: give a path of 1 to ",
                                   sizeof(sockaddr_un::sun_path) - 1, " bytes"));
  }
  if (error != 0) {
    return UnreachableError(absl::StrCat("cannot reach ublkd on ", socket_, ": ",
                                         std::strerror(error), "; ", Remedy(error)));
  }
  channel_ = ConnectToUnixSocket(socket_);
  return absl::OkStatus();
}

absl::Status Client::Explain(const grpc::Status& answer, const grpc::ClientContext& context) const {
  // At the end of a deadline either side may be the one that says so.
  if (answer.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED &&
      std::chrono::system_clock::now() >= context.deadline()) {
    return UnreachableError(absl::StrCat(
        "no answer from ublkd on ", socket_, " within ",
        absl::FormatDuration(absl::FromChrono(timeout_)),
        ": it is busy or stuck, and may still do what was asked; look at its log, or give a longer "
        "--timeout"));
  }
  if (CameFromServer(answer, context)) return Refusal(answer);
  return UnreachableError(
      absl::StrCat("lost ublkd on ", socket_, " during the call: ", answer.error_message(),
                   "; what was asked may have been done, look again when ublkd is back"));
}

}  // namespace ublkd::ctl
