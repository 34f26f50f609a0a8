// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/string_view.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"

namespace ublkd::ublk {
namespace {

/// The lowest that is not "never": a leak of ours must not take the node down with it.
constexpr absl::string_view kOomScore = "-999";

void LogRefusal(absl::string_view what, int error_number) {
  LogWarning("serving goes on without a protection against memory shortage",
             {{"protection", what},
              {"error", std::generic_category().message(error_number)},
              {"remedy", "give the container CAP_SYS_RESOURCE"}});
}

}  // namespace

void PrepareServingProcess() {
  // All other arguments have to be 0.
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) LogRefusal("PR_SET_IO_FLUSHER", errno);

  const UniqueFd file(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (!file.valid() || write(file.get(), kOomScore.data(), kOomScore.size()) < 0) {
    LogRefusal("oom_score_adj", errno);
  }
}

}  // namespace ublkd::ublk
