// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "daemon/base/file.h"
#include "daemon/ublk/control.h"
#include "daemon/ublk/device.h"

namespace ublkd {

/// What a process has that can leak.
struct Footprint {
  size_t descriptors = 0;
  size_t threads = 0;
  std::vector<std::string> device_nodes;

  static Footprint Now();
  friend bool operator==(const Footprint&, const Footprint&) = default;
};
std::ostream& operator<<(std::ostream& out, const Footprint& footprint);

/// True as soon as the condition holds, false when the time is over.
bool Eventually(absl::Duration limit, const std::function<bool()>& condition);

/// Runs a shell command; its output is in the failure message when it fails.
testing::AssertionResult RunCommand(const std::string& command);

/// A test with the driver's control device and a folder on an ext4 that knows O_DIRECT; checks that
/// it leaves no device, descriptor or thread.
class EngineTest : public testing::Test {
 protected:
  static constexpr uint64_t kMiB = uint64_t{1} << 20;

  /// Loads the module that UBLK_DRV_KO names, or the kernel's own, unless one is there.
  static void SetUpTestSuite();
  void SetUp() override;
  void TearDown() override;

  ublk::Control& control() { return *control_; }

  /// A file of the test's own, of zeroes.
  std::string MakeFile(const std::string& name, uint64_t size_bytes);

  absl::StatusOr<std::unique_ptr<ublk::Device>> ServeNull(const ublk::DeviceOptions& options = {},
                                                          uint64_t size_bytes = 64 * kMiB,
                                                          uint32_t block_bytes = 512);
  absl::StatusOr<std::unique_ptr<ublk::Device>> ServeFile(const std::string& path,
                                                          const ublk::DeviceOptions& options = {},
                                                          uint32_t block_bytes = 0);

  std::string folder_;

 private:
  std::unique_ptr<ublk::Control> control_;
  Footprint before_;
};

}  // namespace ublkd
