// SPDX-License-Identifier: Apache-2.0
//
// What was tried, and how often it succeeded, counted by all processes together.
#ifndef UBLKD_TESTS_VM_FUZZ_TALLY_H_
#define UBLKD_TESTS_VM_FUZZ_TALLY_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace ublkd::driver_fuzz {

enum class Kind {
  // Control commands.
  kAdd,
  kDelete,
  kStart,
  kStop,
  kTryStop,
  kSetParams,
  kGet,
  kResize,
  kQuiesce,
  kStartRecovery,
  kEndRecovery,
  kShareMemory,
  kUnshareMemory,
  kNonsense,
  // I/O commands beside the honest ones.
  kFetch,
  kCommit,
  kGetData,
  kRegister,
  kUnregister,
  kBatchPrep,
  kBatchCommit,
  kBatchFetch,
  // Other calls on char devices.
  kMap,
  kCopy,
  kPass,
  kFork,
  // Servers and disks.
  kServe,
  kRead,
  kWrite,
  kDiskControl,
  kKill,
  kCount,
};

// Lies in memory that all processes share.
class Tally {
 public:
  void Count(Kind kind, bool succeeded) {
    ++tried_[static_cast<size_t>(kind)];
    if (succeeded) ++succeeded_[static_cast<size_t>(kind)];
  }
  uint64_t succeeded(Kind kind) const { return succeeded_[static_cast<size_t>(kind)]; }
  // For people: succeeded/tried of everything, on one line.
  std::string Line() const;

 private:
  static constexpr size_t kKinds = static_cast<size_t>(Kind::kCount);
  std::array<std::atomic<uint64_t>, kKinds> tried_ = {};
  std::array<std::atomic<uint64_t>, kKinds> succeeded_ = {};
};

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_TALLY_H_
