// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "daemon/volume/device_manager.h"
#include "daemon/volume/file_pool.h"
#include "tests/unit/volume/fake_devices.h"
#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::volume {

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr char kThisBoot[] = "boot-2";
inline constexpr pid_t kDeadServer = 99999999;

inline DeviceSpec NullDevice(uint64_t size_bytes = kMiB) {
  DeviceSpec spec;
  spec.target = NullSpec{size_bytes};
  return spec;
}
inline DeviceSpec FileDevice(std::string path) {
  DeviceSpec spec;
  spec.target = FileSpec{std::move(path)};
  return spec;
}
inline DeviceSpec VolumeDevice(std::string id) {
  DeviceSpec spec;
  spec.target = VolumeSpec{std::move(id)};
  return spec;
}

/// True when `condition` holds before the deadline.
template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

/// A manager over the fake driver, with a real pool "p" and real files.
class DeviceFixture : public ::testing::Test {
 protected:
  static constexpr uint32_t kCpus = 4;

  DeviceFixture() {
    std::filesystem::create_directory(dir_.File("pool"));
    std::filesystem::create_directory(dir_.File("files"));
    std::filesystem::create_directory(dir_.File("devices"));
    std::vector<std::unique_ptr<Pool>> pools;
    auto pool = FilePool::Open({"p", dir_.File("pool"), 1.0});
    EXPECT_THAT(pool, IsOk());
    pools.push_back(*std::move(pool));
    volumes_ = *VolumeManager::Make(std::move(pools));
  }

  void Start(bool wait = true) {
    devices_.reset();
    auto records = DeviceRecords::Open(dir_.File("devices"));
    ASSERT_THAT(records, IsOk());
    DeviceManagerOptions options;
    options.bounds = {kCpus, 2};
    options.boot_id = kThisBoot;
    options.driver_poll = std::chrono::milliseconds(5);
    options.recovery_poll = std::chrono::milliseconds(5);
    options.recovery_limit = recovery_limit_;
    options.watch_period = std::chrono::milliseconds(1);
    options.leave_devices = leave_devices_;
    options.fail_after_seconds = fail_after_seconds_;
    options.guard = guard_;
    options.guard_patience = absl::Milliseconds(5);
    devices_ = std::make_unique<DeviceManager>(options, factory_, *volumes_, *std::move(records));
    volumes_->SetAttachments(devices_.get());
    devices_->Start();
    if (wait) devices_->WaitForFirstLook();
  }
  void MakeVolume(const std::string& name) {
    VolumeRequest request;
    request.name = name;
    request.size_bytes = kMiB;
    ASSERT_THAT(volumes_->Create("p", request), IsOk());
  }
  std::string MakeFile(const std::string& name, uint64_t size_bytes = kMiB) {
    return dir_.MakeFile("files/" + name, size_bytes);
  }
  /// The record that a server has left which was killed while it served the volume.
  DeviceRecord LeaveRecord(uint32_t id, const std::string& volume_id = "p/a",
                           const std::string& boot_id = kThisBoot) {
    DeviceRecord record;
    record.spec = VolumeDevice(volume_id);
    record.spec.id = id;
    record.boot_id = boot_id;
    record.server_pid = kDeadServer;
    dir_.Write("devices/" + std::to_string(id) + ".json", EncodeDeviceRecord(record));
    return record;
  }
  std::set<std::string> Records() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.File("devices"))) {
      names.insert(entry.path().filename());
    }
    return names;
  }

  bool leave_devices_ = true;
  std::chrono::milliseconds recovery_limit_{20'000};
  uint32_t fail_after_seconds_ = 0;
  GuardLink* guard_ = nullptr;
  TempDir dir_;
  FakeDevices factory_;
  std::unique_ptr<VolumeManager> volumes_;
  std::unique_ptr<DeviceManager> devices_;
};

}  // namespace ublkd::volume
