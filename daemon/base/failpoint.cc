// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>

namespace ublkd::internal {
namespace {

const char* const kWanted = std::getenv("UBLKD_FAILPOINT");

}  // namespace

const bool kFailPointArmed = kWanted != nullptr && *kWanted != '\0';

void HitFailPoint(absl::string_view name) {
  if (name == kWanted) kill(getpid(), SIGKILL);
}

}  // namespace ublkd::internal
