// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "daemon/ublk/buffer_mode.h"
#include "daemon/ublk/geometry.h"
#include "daemon/uring/ring.h"
#include "daemon/uring/task.h"

namespace ublkd::ublk {

class Tag;

/// What one queue thread uses of a target. Made, used and destroyed on that thread, which also runs
/// its ring; it needs no locks for what is its own.
class QueueTarget {
 public:
  virtual ~QueueTarget() = default;
  /// Serves one tag as long as the device lives. Called once for each tag; the coroutine that it
  /// returns does all of the tag's requests, so nothing virtual is called per request.
  virtual uring::RootTask Serve(Tag& tag) = 0;
};

/// A target whose type is forgotten: what `Device::Create` serves. Made by
/// `target::MakeDeviceTarget` out of a class with `Read` and `Write`; nobody else derives from it.
class DeviceTarget {
 public:
  virtual ~DeviceTarget() = default;
  /// Complete (see CompleteGeometry), the same for ever: of the moment it was opened.
  virtual const Geometry& geometry() const = 0;
  virtual DataUse data_use() const = 0;
  /// How large a disk it can serve now; less than the geometry's size when something was taken from
  /// it. Any thread.
  virtual absl::StatusOr<uint64_t> AvailableBytes() const = 0;
  /// The part for one queue thread, which calls this itself; several threads may do so at a time.
  /// `ring` outlives what is returned.
  virtual absl::StatusOr<std::unique_ptr<QueueTarget>> OpenQueue(uring::Ring& ring) = 0;
  /// The device ends: requests that are held back on purpose, because of limits, go on soon, and
  /// from now on none is. Any thread.
  virtual void LetPass() {}
};

}  // namespace ublkd::ublk
