// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>

namespace ublkd::internal {
namespace {

const char* const wanted = std::getenv("UBLKD_FAILPOINT");

}  // namespace

const bool kFailPointArmed = wanted != nullptr && *wanted != '\0';

void HitFailPoint(absl::string_view name) {
  if (name == wanted) kill(getpid(), SIGKILL);
}

}  // namespace ublkd::internal
