// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "absl/strings/string_view.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"

namespace ublkd::ublk {
namespace {

/// The lowest that is not "never": a leak of ours must not take the node down with it.
constexpr absl::string_view kOomScore = "-999";
/// Enough for thousands of devices; a hard limit above it is left alone.
constexpr rlim_t kPlentyOfDescriptors = 1 << 18;

void LogRefusal(absl::string_view what, int error_number) {
  LogWarning("serving goes on without a protection against memory shortage",
             {{"protection", what},
              {"error", std::generic_category().message(error_number)},
              {"remedy", "give the container CAP_SYS_RESOURCE"}});
}

}  // namespace

void PrepareServingProcess() {
  // In the calls of prctl all arguments that are not used have to be 0.
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) LogRefusal("PR_SET_IO_FLUSHER", errno);

  const UniqueFd file(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (!file.valid() || write(file.get(), kOomScore.data(), kOomScore.size()) < 0) {
    LogRefusal("oom_score_adj", errno);
  }
  RaiseDescriptorLimit();
}

void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t hard = std::max(limit.rlim_max, kPlentyOfDescriptors);
  const rlimit raised = {.rlim_cur = hard, .rlim_max = hard};
  if (setrlimit(RLIMIT_NOFILE, &raised) == 0) return;
  // Without the privilege to raise the hard limit, up to it.
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace ublkd::ublk
