// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/engine/fixture.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "daemon/target/file.h"
#include "daemon/target/null.h"

namespace ublkd {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(5);
constexpr absl::Duration kSettleLimit = absl::Seconds(10);

}  // namespace

Footprint Footprint::Now() {
  Footprint footprint;
  footprint.descriptors = ListDirectory("/proc/self/fd")->size();
  // The kernel's own helpers for io_uring come and go as they like.
  const auto tasks = ListDirectory("/proc/self/task");
  for (const std::string& task : *tasks) {
    const auto name = ReadFile(absl::StrCat("/proc/self/task/", task, "/comm"));
    if (name.ok() && !absl::StartsWith(*name, "iou-")) ++footprint.threads;
  }
  const auto nodes = ListDirectory("/dev");
  for (const std::string& node : *nodes) {
    const bool is_device = absl::StartsWith(node, "ublkb") || absl::StartsWith(node, "ublkc");
    if (is_device) footprint.device_nodes.push_back(node);
  }
  return footprint;
}

std::ostream& operator<<(std::ostream& out, const Footprint& footprint) {
  return out << footprint.descriptors << " descriptors, " << footprint.threads
             << " threads, nodes [" << absl::StrJoin(footprint.device_nodes, " ") << "]";
}

bool Eventually(absl::Duration limit, const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + limit;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(kPause);
  }
  return true;
}

testing::AssertionResult RunCommand(const std::string& command) {
  std::string output;
  FILE* pipe = popen(absl::StrCat("( ", command, " ) 2>&1").c_str(), "r");
  if (pipe == nullptr) return testing::AssertionFailure() << "cannot run a shell";
  char buffer[4096];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  const int status = pclose(pipe);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << command << " ended with " << status << ":\n" << output;
}

void EngineTest::SetUpTestSuite() {
  if (access("/dev/ublk-control", F_OK) == 0) return;
  const char* module = std::getenv("UBLK_DRV_KO");
  ASSERT_TRUE(
      RunCommand(module != nullptr ? absl::StrCat("insmod ", module) : "modprobe ublk_drv"));
}

void EngineTest::SetUp() {
  auto control = ublk::Control::Open();
  ASSERT_TRUE(control.ok()) << control.status();
  control_ = *std::move(control);
  const char* base = std::getenv("UBLKD_TEST_FOLDER");
  folder_ = absl::StrCat(base != nullptr ? base : "/scratch", "/engine-test");
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directories(folder_);
  before_ = Footprint::Now();
}

void EngineTest::TearDown() {
  if (control_ == nullptr) return;
  // Rings are taken down by the kernel a moment after they are closed.
  Eventually(kSettleLimit, [this] { return Footprint::Now() == before_; });
  EXPECT_EQ(Footprint::Now(), before_) << "something of the device was left";
  std::filesystem::remove_all(folder_);
}

std::string EngineTest::MakeFile(const std::string& name, uint64_t size_bytes) {
  const std::string path = absl::StrCat(folder_, "/", name);
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(size_bytes)), 0) << path;
  return path;
}

absl::StatusOr<std::unique_ptr<ublk::Device>> EngineTest::ServeNull(
    const ublk::DeviceOptions& options, uint64_t size_bytes, uint32_t block_bytes) {
  auto target = target::MakeNullTarget(size_bytes, block_bytes);
  if (!target.ok()) return target.status();
  return ublk::Device::Create(control(), options, *std::move(target));
}

absl::StatusOr<std::unique_ptr<ublk::Device>> EngineTest::ServeFile(
    const std::string& path, const ublk::DeviceOptions& options, uint32_t block_bytes) {
  auto target = target::OpenFileTarget({.path = path, .logical_block_bytes = block_bytes});
  if (!target.ok()) return target.status();
  return ublk::Device::Create(control(), options, *std::move(target));
}

}  // namespace ublkd
