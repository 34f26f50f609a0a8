// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/rpc.h"

#include <grpc/support/log.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"

namespace ublkd {
namespace {

constexpr mode_t kSocketMode = 0600;

// OK when nothing is at `path`, or a socket that nobody listens on.
absl::Status CheckSocketIsFree(const std::string& path) {
  struct stat existing;
  if (lstat(path.c_str(), &existing) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("cannot look at socket ", path));
  }
  if (!S_ISSOCK(existing.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on ", path, ": it is not a socket; choose another path"));
  }
  if (TryToConnect(path) == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("cannot listen on ", path,
                     ": another server is listening there; stop it or choose another path"));
  }
  return absl::OkStatus();
}

absl::Status CheckSocketPath(const std::string& path) {
  if (!absl::StartsWith(path, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("socket path \"", path, "\" is relative; give an absolute one"));
  }
  if (path.size() > RpcServer::kMaxSocketPathBytes) {
    return absl::InvalidArgumentError(absl::StrCat("socket path ", path, " is longer than ",
                                                   RpcServer::kMaxSocketPathBytes,
                                                   " bytes; choose a shorter one"));
  }
  return CheckSocketIsFree(path);
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message(status.message());
  if (message.empty()) message = absl::StatusCodeToString(status.code());
  return {static_cast<grpc::StatusCode>(status.code()), message};
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

void RouteGrpcLogs() {
  gpr_set_log_function([](gpr_log_func_args* entry) {
    const LogLevel level =
        entry->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kDebug;
    Log(level, "grpc library message", {{"text", entry->message}});
  });
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(grpc::ServerBuilder& builder,
                                                            const std::string& path) {
  UBLKD_RETURN_IF_ERROR(CheckSocketPath(path));
  // gRPC binds under a name of this process; the public name appears when the mode is right.
  const std::string private_path = absl::StrCat(path, ".", getpid());
  unlink(private_path.c_str());
  builder.AddListeningPort(absl::StrCat("unix:", private_path), grpc::InsecureServerCredentials());
  const mode_t old_mask = umask(static_cast<mode_t>(~kSocketMode) & 0777);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  umask(old_mask);
  if (server == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", path,
                     ": the socket cannot be made; check that its folder exists and "
                     "can be written"));
  }
  struct stat made;
  if (lstat(private_path.c_str(), &made) != 0 || rename(private_path.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(private_path.c_str());
    return ErrnoStatus(error, absl::StrCat("cannot listen on ", path));
  }
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(server), path, made.st_ino));
}

void RpcServer::Shutdown(std::chrono::milliseconds grace) {
  server_->Shutdown(std::chrono::system_clock::now() + grace);
}

RpcServer::~RpcServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  struct stat now;
  if (lstat(path_.c_str(), &now) == 0 && now.st_ino == inode_) unlink(path_.c_str());
}

int TryToConnect(const std::string& path) {
  sockaddr_un address{};
  if (path.empty()) return EINVAL;
  if (path.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!probe.valid()) return errno;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const bool connected =
      connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  return connected ? 0 : errno;
}

std::shared_ptr<grpc::Channel> ConnectToUnixSocket(const std::string& path) {
  grpc::ChannelArguments arguments;
  // A proxy from the environment must not come between two programs of one machine.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // After a restart of the server the next call finds it at once. The "minimum" backoff is left
  // alone: it is also the time that a connection attempt may take, and a busy machine needs it.
  constexpr int kReconnectMs = 100;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMs);
  // A connection that is shared with other channels may be one to a server that is gone.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(absl::StrCat("unix:", path), grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace ublkd
