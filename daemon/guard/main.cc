// SPDX-License-Identifier: Apache-2.0
//
// ublkd-guard: ends the wait for an ublkd that stays away.
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/config.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/guard/guard.h"
#include "daemon/guard/watch.h"
#include "daemon/ublk/process.h"
#include "daemon/volume/guard_link.h"
#include "daemon/volume/kernel_devices.h"

namespace ublkd::guard {
namespace {

enum ExitCode { kEnded = 0, kCannotStart = 1, kWrongUsage = 2 };

constexpr mode_t kPrivate = 0077;
constexpr mode_t kFolderMode = 0700;

constexpr char kDescription[] =
    "ublkd-guard ends the wait of those who use devices of an ublkd that stays away.\n"
    "Devices outlive ublkd: while nobody serves them their users wait. This program knows by a\n"
    "connection whether ublkd lives. When it does not, each device that has waited for its\n"
    "fail_after (`ublkctl device create --fail-after`, `ublkd --fail-after`) is answered with I/O\n"
    "errors, until an ublkd is back.";

constexpr char kFooter[] = R"(
Example:
  ublkd-guard                   beside an ublkd with the same --state-dir
  ublkd-guard --now             while the node shuts down, so that no unmounting hangs

SIGTERM and SIGINT end it: what it answered with errors waits again. It logs one JSON object a line
on stderr.
Exit status: 0 ended, 1 could not start, 2 wrong usage.)";

struct Flags {
  std::string state_dir = "/run/ublkd";
  std::string socket;
  bool now = false;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.description(kDescription);
  app.footer(kFooter);
  app.get_formatter()->column_width(36);
  app.add_option("--state-dir", flags.state_dir, "Folder of ublkd's device records; they are read")
      ->capture_default_str();
  app.add_option("--socket", flags.socket,
                 "Unix socket that ublkd connects to; default guard.sock in the --state-dir");
  app.add_flag("--now", flags.now,
               "Answer all devices that wait with errors at once, whatever their fail_after, and "
               "end when none is in use");
  AddYamlConfig(app);
  AddVersion(app, "ublkd-guard");
}

absl::StatusOr<UniqueFd> TakeEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // Before any thread is made, so that none takes them.
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd end(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!end.valid()) return ErrnoStatus(errno, "cannot wait for signals");
  return end;
}

absl::Duration SinceBoot() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

absl::Status Serve(const Flags& flags) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd end, TakeEndSignals());
  if (!absl::StartsWith(flags.state_dir, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--state-dir \"", flags.state_dir, "\": is relative; give an absolute path"));
  }
  UBLKD_ASSIGN_OR_RETURN(const std::string boot_id, ReadFile("/proc/sys/kernel/random/boot_id"));
  const std::string socket =
      flags.socket.empty() ? volume::GuardSocketOf(flags.state_dir) : flags.socket;
  UBLKD_RETURN_IF_ERROR(MakeDirectories(std::filesystem::path(socket).parent_path(), kFolderMode));
  volume::KernelDevices kernel;
  Guard guard({.records_dir = absl::StrCat(flags.state_dir, "/devices"),
               .boot_id = std::string(absl::StripAsciiWhitespace(boot_id))},
              kernel, SinceBoot);
  Watch watch({.socket = socket, .now = flags.now}, guard, SinceBoot, end.get());
  return watch.Run();
}

int Run(const Flags& flags) {
  umask(kPrivate);
  ublk::PrepareServingProcess();
  if (const absl::Status status = Serve(flags); !status.ok()) {
    LogError("ublkd-guard cannot start", {{"code", absl::StatusCodeToString(status.code())},
                                          {"reason", std::string(status.message())}});
    return kCannotStart;
  }
  LogInfo("ublkd-guard has ended");
  return kEnded;
}

}  // namespace
}  // namespace ublkd::guard

int main(int argc, char** argv) {
  CLI::App app;
  ublkd::guard::Flags flags;
  ublkd::guard::AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ublkd::guard::kEnded : ublkd::guard::kWrongUsage;
  }
  return ublkd::guard::Run(flags);
}
