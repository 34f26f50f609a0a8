// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/service.h"

#include <chrono>
#include <exception>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"
#include "daemon/base/rpc.h"
#include "daemon/csi/request.h"

namespace ublkd::csi {
namespace {

// What is logged of an id that may be far too long.
constexpr size_t kMaxLoggedIdBytes = 128;

absl::Status RunBody(const google::protobuf::Message& request,
                     const std::function<absl::Status()>& body) {
  try {
    absl::Status status = CheckSizes(request);
    if (status.ok()) status = body();
    // System calls fail in ways for which the interface has no code.
    if (absl::IsUnknown(status)) return absl::InternalError(status.message());
    return status;
  } catch (const std::exception& error) {
    return absl::InternalError(
        absl::StrCat("unexpected failure: ", error.what(), "; please report it with the log"));
  }
}

bool IsQuestion(absl::string_view method) {
  return absl::StrContains(method, "Get") || absl::EndsWith(method, "Probe");
}

}  // namespace

absl::Status NotOffered(absl::string_view method) {
  return absl::UnimplementedError(
      absl::StrCat(method, " is not offered by this plugin; its capabilities say what is"));
}

grpc::Status CallServer::Serve(absl::string_view method, const google::protobuf::Message& request,
                               const std::function<absl::Status()>& body) const {
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = RunBody(request, body);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string volume = VolumeOf(request).substr(0, kMaxLoggedIdBytes);
  const int64_t took_ms = std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
  LogDebug("request", {{"method", method}, {"request", DescribeWithoutSecrets(request)}});
  if (!status.ok()) {
    LogWarning("call", {{"method", method},
                        {"volume_id", volume},
                        {"code", code},
                        {"duration_ms", took_ms},
                        {"error", std::string(status.message())}});
  } else {
    Log(IsQuestion(method) ? LogLevel::kDebug : LogLevel::kInfo, "call",
        {{"method", method}, {"volume_id", volume}, {"code", code}, {"duration_ms", took_ms}});
  }
  if (metrics_ != nullptr) metrics_->Observe(method, code, took.count());
  return ToGrpc(status);
}

}  // namespace ublkd::csi
