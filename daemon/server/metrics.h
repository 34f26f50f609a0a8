// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "daemon/volume/device_manager.h"
#include "daemon/volume/volume_manager.h"

namespace ublkd::server {

/// Everything under /metrics, read when it is asked for: from the counters that the queue threads
/// write and from memory, never from a backend, so that a scrape is answered while one hangs. Any
/// thread. README.md lists the names.
class Metrics : public prometheus::Collectable {
 public:
  /// Both outlive the object.
  Metrics(volume::DeviceManager& devices, const volume::VolumeManager& volumes)
      : devices_(devices), volumes_(volumes) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  volume::DeviceManager& devices_;
  const volume::VolumeManager& volumes_;
};

/// The families in Prometheus' text format.
std::string SerializeMetrics(const prometheus::Collectable& metrics);
inline constexpr char kMetricsContentType[] = "text/plain; version=0.0.4; charset=utf-8";

/// Of a volume's labels, where the names that Kubernetes uses are found.
struct KubernetesNames {
  std::string persistent_volume;
  std::string persistent_volume_claim;
  std::string name_space;
};

/// Finds them under "persistentvolume", "persistentvolumeclaim" and "namespace", or under the keys
/// of external-provisioner ("csi.storage.k8s.io/pv/name", "csi.storage.k8s.io/pvc/name",
/// "csi.storage.k8s.io/pvc/namespace"); empty for none.
KubernetesNames FindKubernetesNames(const volume::Labels& labels);

}  // namespace ublkd::server
