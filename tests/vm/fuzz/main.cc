// SPDX-License-Identifier: Apache-2.0
//
// Attacks the ublk driver with whatever servers, their users and others can send, for some time.
// The kernel must stay healthy, which its log tells, every process must end, every device must be
// deletable, and the module must unload.
#include <glob.h>
#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>

#include "tests/vm/driver/control.h"
#include "tests/vm/driver/module.h"
#include "tests/vm/driver/raw_server.h"
#include "tests/vm/fuzz/crew.h"

namespace ublkd::driver_fuzz {
namespace {

using driver_test::Control;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kEndLimit{60};  // guests are slow
constexpr std::chrono::seconds kLineEvery{10};

struct Options {
  std::chrono::seconds time{20};
  uint64_t seed = 1;
  unsigned slowness = 1;
};

// Exits if they can't be understood.
Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    char* end = nullptr;
    const uint64_t value = std::strtoull(argv[i + 1], &end, 0);
    if (*end != '\0') break;
    if (name == "--seconds") {
      options.time = std::chrono::seconds(value);
    } else if (name == "--seed") {
      options.seed = value;
    } else if (name == "--slowness") {
      options.slowness = static_cast<unsigned>(value);
    } else {
      break;
    }
    if (i + 2 == argc) return options;
  }
  if (argc == 1) return options;
  (void)std::fprintf(stderr, "usage: ublk_driver_fuzz [--seconds N] [--seed S] [--slowness N]\n");
  std::exit(2);
}

std::vector<uint32_t> Devices() {
  std::vector<uint32_t> ids;
  glob_t found = {};
  if (glob("/dev/ublkc[0-9]*", 0, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) {
      ids.push_back(static_cast<uint32_t>(
          std::strtoul(found.gl_pathv[i] + std::strlen("/dev/ublkc"), nullptr, 10)));
    }
  }
  globfree(&found);
  return ids;
}

// Without waiting for long: disks go when their servers are dead, with whatever waits for them.
void DeleteDevices() {
  constexpr std::chrono::seconds kPatience{2};
  Control control;
  for (const uint32_t id : Devices()) {
    control.Send(UBLK_U_CMD_DEL_DEV_ASYNC, {.dev_id = id});
    control.Finish(kPatience);
  }
}

bool NoDeviceIsLeft() {
  return driver_test::Eventually([] { return Devices().empty(); }, kEndLimit);
}

bool Ready() {
  if (!driver_test::PathExists("/dev/ublk-control") && !driver_test::LoadDriver()) return false;
  return driver_test::Eventually([] { return driver_test::PathExists("/dev/ublk-control"); });
}

bool Unloaded() {
  return driver_test::Eventually([] { return driver_test::UnloadDriver() == 0; }, kEndLimit);
}

int Complain(const char* what) {
  std::printf("fuzz: FAILED: %s\n", what);
  return 1;
}

int Run(const Options& options) {
  if (!Ready()) return Complain("the driver can't be loaded; is UBLK_DRV_KO right?");
  // For those that are not root.
  chmod("/dev/ublk-control", 0666);
  const driver_test::SharedMemory memory(sizeof(Board));
  Board& board = *new (memory.data()) Board;
  const uint64_t features = Control().Features();
  std::printf("fuzz: seed %llu, features 0x%llx\n", static_cast<unsigned long long>(options.seed),
              static_cast<unsigned long long>(features));
  Crew crew(board, features, options.seed, options.slowness);
  const auto begin = Clock::now();
  auto next_line = begin + kLineEvery;
  while (Clock::now() < begin + options.time) {
    crew.Tend();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    if (Clock::now() < next_line) continue;
    next_line += kLineEvery;
    const auto time = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - begin);
    std::printf("fuzz: %4lld s:%s\n", static_cast<long long>(time.count()),
                board.tally.Line().c_str());
  }
  std::printf("fuzz: at the end:%s\n", board.tally.Line().c_str());
  crew.Dismiss();
  // Users wait for servers that will not come.
  DeleteDevices();
  if (!crew.AllGone(kEndLimit)) return Complain("processes hang, see above");
  // Commands of the dead may have made more of them.
  DeleteDevices();
  if (!NoDeviceIsLeft()) return Complain("devices can't be deleted");
  if (!Unloaded()) return Complain("the module does not unload");
  std::printf("fuzz: passed, seed %llu\n", static_cast<unsigned long long>(options.seed));
  return 0;
}

}  // namespace
}  // namespace ublkd::driver_fuzz

int main(int argc, char** argv) {
  (void)setvbuf(stdout, nullptr, _IOLBF, 0);
  (void)signal(SIGPIPE, SIG_IGN);
  return ublkd::driver_fuzz::Run(ublkd::driver_fuzz::Parse(argc, argv));
}
