// SPDX-License-Identifier: Apache-2.0
//
// ublkd: serves files and volumes as block devices.
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "daemon/base/log.h"
#include "daemon/server/options.h"
#include "daemon/server/server.h"
#include "daemon/ublk/process.h"
#include "daemon/volume/kernel_devices.h"

namespace ublkd::server {
namespace {

enum ExitCode { kStopped = 0, kCannotStart = 1, kWrongUsage = 2, kStuck = 3 };

constexpr mode_t kPrivate = 0077;
/// Beyond the grace time of the flags: for calls to end and for devices to be stopped by force.
constexpr std::chrono::milliseconds kStopMargin{20'000};

/// Ends the process when it is not ended in time: the kernel then quiesces the devices, or takes
/// those away that end with their server.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::milliseconds limit) : thread_([this, limit] { Watch(limit); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    ended_.notify_one();
    thread_.join();
  }

 private:
  void Watch(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    if (ended_.wait_for(lock, limit, [this] { return done_; })) return;
    LogError("ublkd did not stop in time and ends now", {{"limit_ms", limit.count()}});
    EndProcess(kStuck);
  }

  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::thread thread_;
};

// Before any thread is made, so that only main takes them.
sigset_t BlockEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  (void)signal(SIGPIPE, SIG_IGN);
  return signals;
}

int Refuse(const absl::Status& status) {
  LogError("ublkd cannot start", {{"code", absl::StatusCodeToString(status.code())},
                                  {"reason", std::string(status.message())}});
  return kCannotStart;
}

int Run(const Flags& flags) {
  const sigset_t signals = BlockEndSignals();
  umask(kPrivate);
  const absl::StatusOr<LogLevel> level = ParseLogLevel(flags.log_level);
  if (!level.ok()) return Refuse(level.status());
  SetLogLevel(*level);
  ublk::PrepareServingProcess();

  volume::KernelDevices kernel;
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(flags, kernel);
  if (!server.ok()) return Refuse(server.status());

  int number = 0;
  sigwait(&signals, &number);
  const size_t devices = (*server)->device_count();
  LogInfo("ublkd stops", {{"signal", strsignal(number)}, {"devices", devices}});
  const Watchdog watchdog(std::chrono::milliseconds(flags.shutdown_grace_ms) + kStopMargin);
  if (!(*server)->Stop()) {
    LogError("ublkd ends without waiting for a backend that does not answer");
    EndProcess(kStuck);
  }
  server->reset();
  LogInfo("ublkd has stopped");
  return kStopped;
}

}  // namespace
}  // namespace ublkd::server

int main(int argc, char** argv) {
  CLI::App app;
  ublkd::server::Flags flags;
  ublkd::server::AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ublkd::server::kStopped : ublkd::server::kWrongUsage;
  }
  return ublkd::server::Run(flags);
}
