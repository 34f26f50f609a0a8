// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ublkd::ctl {

/// Calls ublkd on its unix socket; connects at the first call. One thread.
class Client {
 public:
  /// `timeout` is the most that one call may take.
  Client(std::string socket, std::chrono::milliseconds timeout)
      : socket_(std::move(socket)), timeout_(timeout) {}

  /// Calls `method`, such as `&v1::DeviceService::Stub::GetDevice`. Errors: what ublkd answered, in
  /// its own words, or UnreachableError.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request) {
    if (absl::Status connected = Connect(); !connected.ok()) return connected;
    Stub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout_);
    Response response;
    const grpc::Status answer = (stub.*method)(&context, request, &response);
    if (!answer.ok()) return Explain(answer, context);
    return response;
  }

 private:
  absl::Status Connect();
  absl::Status Explain(const grpc::Status& answer, const grpc::ClientContext& context) const;

  const std::string socket_;
  const std::chrono::milliseconds timeout_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace ublkd::ctl
