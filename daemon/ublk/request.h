// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "daemon/ublk/stats.h"
#include "daemon/uring/operation.h"
#include "daemon/uring/result.h"

namespace ublkd::ublk {

/// With user copy: where a tag's data is to be read from and written to.
struct DataFile {
  /// The device's char device; belongs to the queue thread.
  int fd = -1;
  /// Of the first byte of the tag's request.
  uint64_t offset_bytes = 0;
};

/// One thing that the block layer asks of a target. Offset and length are multiples of the logical
/// block and lie within the device.
struct Request {
  Op op = Op::kRead;
  /// kWrite: durable when it is answered (force unit access).
  bool fua = false;
  /// kWriteZeroes: the range keeps its space.
  bool no_unmap = false;
  uint64_t offset_bytes = 0;
  /// 0 for kFlush.
  uint64_t length_bytes = 0;
  /// kRead, kWrite: `length_bytes` of data, else empty. Valid until the request is answered. A
  /// target of DataUse::kBytes finds memory in it, page-aligned; of DataUse::kForwards maybe none,
  /// but what every operation of the ring can work on.
  uring::Buffer buffer = {};
  /// Set with user copy alone; Load and Store use it.
  const DataFile* data_file = nullptr;

  /// DataUse::kBytes: the memory of the data.
  std::span<std::byte> bytes() const { return {buffer.data, buffer.bytes}; }

  /// kWrite, DataUse::kCopies: copies a part of the data, beginning at `from_bytes`, into memory of
  /// the target. Does not wait. An error is what the request is to be answered with.
  uring::Result Load(uint64_t from_bytes, std::span<std::byte> into) const;
  /// kRead, DataUse::kCopies: fills a part of the data, beginning at `at_bytes`. All of it has to
  /// be filled before the request is answered with success. As Load.
  uring::Result Store(uint64_t at_bytes, std::span<const std::byte> from) const;
};

}  // namespace ublkd::ublk
