// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "daemon/ublk/stats.h"
#include "daemon/uring/operation.h"

namespace ublkd::ublk {

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
  /// kRead, kWrite: `length_bytes` of memory, page-aligned; else empty. Valid until the request is
  /// answered.
  uring::Buffer buffer = {};

  std::span<std::byte> bytes() const { return {buffer.data, buffer.bytes}; }
};

}  // namespace ublkd::ublk
