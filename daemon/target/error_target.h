// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>

#include "daemon/target/target.h"

namespace ublkd::target {

/// Answers every request with EIO.
struct ErrorTarget {
  struct Queue {
    static constexpr DataUse kDataUse = DataUse::kNothing;
    static constexpr Result kFailed = Result::Error(EIO);

    Result Read(const Request&) { return kFailed; }
    Result Write(const Request&) { return kFailed; }
    Result Flush(const Request&) { return kFailed; }
    Result Discard(const Request&) { return kFailed; }
    Result WriteZeroes(const Request&) { return kFailed; }
  };

  Geometry look;
  Geometry geometry() const { return look; }
  absl::StatusOr<Queue> OpenQueue(uring::Ring&) { return Queue(); }
};

}  // namespace ublkd::target
