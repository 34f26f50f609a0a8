// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd::csi {

/// Duration of the calls served, as csi_plugin_operations_seconds{driver_name, method_name,
/// grpc_status_code}, and ublkd_build_info, at http://<address>/metrics. Any thread may observe.
class Metrics {
 public:
  /// `address` is "host:port". UNAVAILABLE when it cannot be listened on.
  static absl::StatusOr<std::unique_ptr<Metrics>> Start(const std::string& address,
                                                        const std::string& driver_name);
  ~Metrics();

  /// Counts one call of `method`, such as "/csi.v1.Node/NodeStageVolume", that ended with `code`.
  void Observe(absl::string_view method, absl::string_view code, double seconds);

 private:
  struct Parts;
  explicit Metrics(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace ublkd::csi
