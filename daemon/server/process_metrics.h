// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <prometheus/metric_family.h>

#include <vector>

namespace ublkd::server {

/// The process_* families that every Prometheus client has: start time, CPU time, memory,
/// descriptors and threads of this process, from /proc. What cannot be read is left out.
std::vector<prometheus::MetricFamily> CollectProcessMetrics();

}  // namespace ublkd::server
