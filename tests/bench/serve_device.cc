// SPDX-License-Identifier: Apache-2.0
//
// The engine alone, as a program: serves one null, memory or file device until SIGTERM or SIGINT.
// What is measured with it is the engine, with nothing of the daemon around it.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/target/file.h"
#include "daemon/target/null.h"
#include "daemon/target/throttle.h"
#include "daemon/ublk/control.h"
#include "daemon/ublk/device.h"
#include "daemon/ublk/process.h"
#include "tests/bench/memory_target.h"

namespace ublkd {
namespace {

struct Arguments {
  std::string target = "null";
  std::string path;
  uint64_t size_bytes = uint64_t{1} << 30;
  uint32_t block_bytes = 0;
  std::string buffers;
  ublk::DeviceOptions device;
};

absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> OpenTarget(const Arguments& arguments) {
  // As ublkd has it: a device without limits may be given some.
  auto throttle = std::make_shared<target::Throttle>();
  if (arguments.target == "file") {
    return target::OpenFileTarget({.path = arguments.path,
                                   .logical_block_bytes = arguments.block_bytes,
                                   .throttle = std::move(throttle)});
  }
  if (arguments.target == "memory") {
    return target::MakeDeviceTarget(bench::MemoryTarget(arguments.size_bytes));
  }
  const uint32_t block = arguments.block_bytes == 0 ? ublk::kSectorBytes : arguments.block_bytes;
  return target::MakeNullTarget(arguments.size_bytes, block, std::move(throttle));
}

absl::Status Serve(const Arguments& arguments) {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  // Before any thread, so that all of them leave these to us.
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  ublk::PrepareServingProcess();

  auto control = ublk::Control::Open();
  if (!control.ok()) return control.status();
  auto target = OpenTarget(arguments);
  if (!target.ok()) return target.status();
  auto device = ublk::Device::Create(**control, arguments.device, *std::move(target));
  if (!device.ok()) return device.status();
  std::cout << (*device)->block_path() << '\n' << std::flush;
  int received = 0;
  sigwait(&ends, &received);
  return (*device)->Stop(ublk::StopMode::kForce);
}

}  // namespace
}  // namespace ublkd

int main(int argc, char** argv) {
  ublkd::Arguments arguments;
  CLI::App app("Serves one ublk device until SIGTERM, and prints its path when it is live");
  app.add_option("--target", arguments.target, "null, memory or file")
      ->check(CLI::IsMember({"null", "memory", "file"}));
  app.add_option("--path", arguments.path, "file: what is served");
  app.add_option("--size", arguments.size_bytes, "null, memory: bytes");
  app.add_option("--block", arguments.block_bytes, "logical block, bytes");
  app.add_option("--buffers", arguments.buffers, "copy, user-copy or zero-copy; else the best")
      ->check(CLI::IsMember({"copy", "user-copy", "zero-copy"}));
  app.add_option("--queues", arguments.device.queues, "hardware queues");
  app.add_option("--depth", arguments.device.depth, "requests in flight for each queue");
  app.add_option("--threads", arguments.device.threads_per_queue, "threads for each queue");
  app.add_flag("!--no-metrics", arguments.device.metrics, "without counters");
  CLI11_PARSE(app, argc, argv);

  arguments.device.buffers = ublkd::ublk::ParseBufferMode(arguments.buffers);
  const absl::Status status = ublkd::Serve(arguments);
  if (status.ok()) return 0;
  std::cerr << status.message() << '\n';
  return 1;
}
