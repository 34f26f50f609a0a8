// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "daemon/volume/device_manager.h"

namespace ublkd::volume {

/// A device that is to be served: its data, and who is kept away from that meanwhile.
struct DeviceManager::Plan {
  DeviceSpec spec;
  /// As Entry::key.
  std::string key;
  /// Of the file that holds the data; empty for null.
  std::string path;
  InFlight::Lease lease;
  /// Holds the limits of the spec, once the target is made.
  std::shared_ptr<target::Throttle> throttle;
};

}  // namespace ublkd::volume
