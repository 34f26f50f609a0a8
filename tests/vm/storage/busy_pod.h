// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/pod_volume.h"
#include "tests/support/process.h"

namespace ublkd::test {

/// A load on a file or disk, which ends when all that was written was compared.
inline std::vector<std::string> Fio(const std::string& file) {
  return {"fio",          "--name=load",     "--filename=" + file, "--size=4m",
          "--bs=4k",      "--rw=randwrite",  "--direct=1",         "--ioengine=io_uring",
          "--iodepth=16", "--verify=crc32c", "--verify_fatal=1",   "--thread"};
}

/// A pod that writes its volume, reads that back and compares, again and again.
class BusyPod {
 public:
  BusyPod(std::unique_ptr<PodVolume> volume, bool raw) : volume_(std::move(volume)), raw_(raw) {}
  ~BusyPod() { (void)Finish(); }

  absl::Status Start() {
    for (const absl::Status& status : {volume_->Create(), volume_->Stage(), volume_->Publish()}) {
      if (!status.ok()) return status;
    }
    user_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }
  /// The first error of the user, once it has ended.
  absl::Status Finish() {
    stop_ = true;
    if (user_.joinable()) user_.join();
    return status_;
  }
  absl::Status Remove() {
    for (const absl::Status& status :
         {volume_->Unpublish(), volume_->Unstage(), volume_->Delete()}) {
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  int rounds() const { return rounds_; }
  bool failed() const { return failed_; }
  PodVolume& volume() { return *volume_; }

 private:
  static constexpr std::chrono::seconds kFioLimit{600};

  void Run() {
    const std::string path = volume_->target_path();
    while (!stop_ && status_.ok()) {
      status_ = RunCommand(Fio(raw_ ? path : path + "/data"), kFioLimit).status();
      if (status_.ok()) ++rounds_;
    }
    failed_ = !status_.ok();
  }

  std::unique_ptr<PodVolume> volume_;
  const bool raw_;
  std::thread user_;
  std::atomic<bool> stop_ = false;
  std::atomic<bool> failed_ = false;
  std::atomic<int> rounds_ = 0;
  absl::Status status_;
};

}  // namespace ublkd::test
