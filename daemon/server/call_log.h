// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace ublkd::server {

/// One call as the log tells it: every refusal, and every change with the time it took. Requests
/// are never logged whole. Lives as long as the call.
class CallLog {
 public:
  enum class Kind { kReads, kChanges };

  CallLog(Kind kind, absl::string_view call) : kind_(kind), call_(call), start_(absl::Now()) {}

  /// What the call is about, such as a volume's id, as far as it is known. It comes from outside:
  /// what is too long is cut.
  void SetSubject(absl::string_view subject) {
    constexpr size_t kMaxSubjectBytes = 256;
    subject_ = std::string(subject.substr(0, kMaxSubjectBytes));
  }

  /// Logs the end of the call and gives its status in gRPC's words.
  grpc::Status End(const absl::Status& status) const;

 private:
  const Kind kind_;
  const std::string call_;
  const absl::Time start_;
  std::string subject_;
};

}  // namespace ublkd::server
