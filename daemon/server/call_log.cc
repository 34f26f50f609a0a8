// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/call_log.h"

#include "daemon/base/log.h"
#include "daemon/base/rpc.h"

namespace ublkd::server {

grpc::Status CallLog::End(const absl::Status& status) const {
  const int64_t took_ms = absl::ToInt64Milliseconds(absl::Now() - start_);
  if (!status.ok()) {
    LogInfo("call is refused", {{"call", call_},
                                {"subject", subject_},
                                {"code", absl::StatusCodeToString(status.code())},
                                {"reason", std::string(status.message())},
                                {"took_ms", took_ms}});
  } else {
    Log(kind_ == Kind::kChanges ? LogLevel::kInfo : LogLevel::kDebug, "call is done",
        {{"call", call_}, {"subject", subject_}, {"took_ms", took_ms}});
  }
  return ToGrpc(status);
}

}  // namespace ublkd::server
