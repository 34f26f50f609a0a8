// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ublkd {

/// The two status types have the same codes; a message is never empty on an error.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

/// Makes what the gRPC library itself has to say lines of our log. Called once, at the start.
void RouteGrpcLogs();

/// A gRPC server on a unix socket of mode 0600. The socket appears under its name only when it can
/// be called, and is removed with the server.
class RpcServer {
 public:
  /// Starts serving what was registered with `builder` on `path` (absolute, at most
  /// kMaxSocketPathBytes). A socket that a server still listens on is ALREADY_EXISTS, any other
  /// kind of file FAILED_PRECONDITION; a stale socket is replaced.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(grpc::ServerBuilder& builder,
                                                          const std::string& path);
  ~RpcServer();
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;

  /// Takes no more calls, gives running ones `grace` to end and then cancels them.
  void Shutdown(std::chrono::milliseconds grace);

  static constexpr size_t kMaxSocketPathBytes = 100;

 private:
  RpcServer(std::unique_ptr<grpc::Server> server, std::string path, ino_t inode)
      : server_(std::move(server)), path_(std::move(path)), inode_(inode) {}

  std::unique_ptr<grpc::Server> server_;
  std::string path_;
  // Of the socket, so that one that somebody else put in our place is left alone.
  ino_t inode_;
};

/// Connects to the unix socket `path` and hangs up: 0 when somebody listens there, otherwise the
/// errno that says why not, which gRPC does not tell; EINVAL for "", ENAMETOOLONG for what no
/// socket can be called.
int TryToConnect(const std::string& path);

/// A channel to the server on the unix socket `path`; connects when it is first used.
std::shared_ptr<grpc::Channel> ConnectToUnixSocket(const std::string& path);

}  // namespace ublkd
