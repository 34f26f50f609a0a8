// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "daemon/target/target.h"

namespace ublkd::bench {

/// A disk in memory, whose target copies for itself: what user copy is for.
class MemoryTarget {
 public:
  explicit MemoryTarget(uint64_t size_bytes)
      : size_bytes_(size_bytes), disk_(new std::byte[size_bytes]()) {}

  target::Geometry geometry() const { return {.size_bytes = size_bytes_}; }

  struct Queue {
    static constexpr auto kDataUse = target::DataUse::kCopies;
    std::byte* disk;

    target::Result Read(const target::Request& request) {
      return request.Store(0, {disk + request.offset_bytes, request.length_bytes});
    }
    target::Result Write(const target::Request& request) {
      return request.Load(0, {disk + request.offset_bytes, request.length_bytes});
    }
  };

  absl::StatusOr<Queue> OpenQueue(uring::Ring&) { return Queue{disk_.get()}; }

 private:
  uint64_t size_bytes_;
  std::unique_ptr<std::byte[]> disk_;
};

}  // namespace ublkd::bench
