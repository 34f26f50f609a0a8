// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/strings/string_view.h"

/// Named steps at which a test has the process killed, as a power cut or the OOM killer would do
/// it: $UBLKD_FAILPOINT names one. Costs a look at a variable, and stands on no path of an I/O.
namespace ublkd {

namespace internal {
/// Set before main.
extern const bool kFailPointArmed;
void HitFailPoint(absl::string_view name);
}  // namespace internal

/// SIGKILL to ourselves if this is the step.
inline void FailPoint(absl::string_view name) {
  if (internal::kFailPointArmed) [[unlikely]]
    internal::HitFailPoint(name);
}

}  // namespace ublkd
