// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "daemon/volume/device.h"
#include "daemon/volume/owned_directory.h"

namespace ublkd::volume {

/// 3: there are limits, which who reads 2 only would lose, or a buffer mode other than copy, which
/// it could not serve.
inline constexpr uint32_t kDeviceRecordVersion = 3;
/// 2: what a server leaves may have to be taken over; who reads 1 only would take it away. Written
/// for all other devices, which the ublkd before may serve as well.
inline constexpr uint32_t kPlainDeviceRecordVersion = 2;
/// The oldest version that is read: the one before, and never less than the first.
inline constexpr uint32_t kOldestDeviceRecordVersion = 2;

/// What is on disk about a device before the driver hears of it, so that a killed server leaves no
/// device that nobody knows.
struct DeviceRecord {
  /// In effect; `spec.id` is set. `spec.fail_after_seconds` is as it was asked for.
  DeviceSpec spec;
  /// In effect; what ublkd-guard goes by.
  uint32_t fail_after_seconds = 0;
  /// Random; the kernel's device of this id is ours if it has the same. 0 when it was made by an
  /// ublkd that knew of none.
  uint64_t cookie = 0;
  /// The kernel's device of this id was made by somebody else.
  bool IsNotOf(uint64_t kernel_cookie) const { return cookie != 0 && cookie != kernel_cookie; }
  /// Feature bits of the device; 0 until the driver has granted them.
  uint64_t flags = 0;
  /// Of the boot in which the device was made; ids mean nothing in another one.
  std::string boot_id;
  /// Process that serves the device.
  pid_t server_pid = 0;
  /// 1 when made; grows by one with each server that takes the device over.
  uint64_t generation = 1;
  absl::Time created_at;
};

std::string EncodeDeviceRecord(const DeviceRecord& record);
/// DATA_LOSS for what is no device record, FAILED_PRECONDITION for a version that is not read.
absl::StatusOr<DeviceRecord> DecodeDeviceRecord(absl::string_view text);

/// The folder of the device records, one file "<id>.json" each. Any thread; for one id the caller
/// lets only one call run at a time.
class DeviceRecords {
 public:
  /// Makes the folder when it is not there; FAILED_PRECONDITION when another ublkd uses it.
  static absl::StatusOr<DeviceRecords> Open(const std::string& path);
  /// To Load only, beside the ublkd that uses the folder. NOT_FOUND when there is none.
  static absl::StatusOr<DeviceRecords> OpenToRead(const std::string& path);

  /// All records by id; a record that cannot be read is an error in its place.
  absl::StatusOr<std::map<uint32_t, absl::StatusOr<DeviceRecord>>> Load() const;
  /// Durable when it answers.
  absl::Status Write(const DeviceRecord& record) const;
  /// Durable when it answers; one that is not there is success.
  absl::Status Remove(uint32_t id) const;
  std::string PathOf(uint32_t id) const;
  /// What the device of a record that cannot be read serves, in the words of DescribeTarget, as far
  /// as the record tells; else empty.
  std::string TargetOfUnreadable(uint32_t id) const;

 private:
  explicit DeviceRecords(OwnedDirectory directory) : directory_(std::move(directory)) {}

  OwnedDirectory directory_;
};

}  // namespace ublkd::volume
