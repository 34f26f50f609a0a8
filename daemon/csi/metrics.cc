// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/metrics.h"

#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <exception>

#include "absl/strings/str_cat.h"
#include "daemon/base/version.h"

namespace ublkd::csi {
namespace {

const prometheus::Histogram::BucketBoundaries& BucketsSeconds() {
  static const auto* const buckets = new prometheus::Histogram::BucketBoundaries{
      0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600};
  return *buckets;
}

}  // namespace

struct Metrics::Parts {
  std::string driver_name;
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Histogram>& operations =
      prometheus::BuildHistogram()
          .Name("csi_plugin_operations_seconds")
          .Help("Duration of the calls of the Container Storage Interface that were served")
          .Register(*registry);
  std::unique_ptr<prometheus::Exposer> exposer;
};

Metrics::Metrics(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Metrics::~Metrics() = default;

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Start(const std::string& address,
                                                        const std::string& driver_name) {
  auto parts = std::make_unique<Parts>();
  parts->driver_name = driver_name;
  prometheus::BuildGauge()
      .Name("ublkd_build_info")
      .Help("Version of the program, always 1")
      .Register(*parts->registry)
      .Add({{"version", kVersion}, {"program", "ublkd-csi"}})
      .Set(1);
  try {
    parts->exposer = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/1);
    parts->exposer->RegisterCollectable(parts->registry);
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics at ", address, ": ",
                                               error.what(),
                                               "; give --metrics-address another one"));
  }
  return std::unique_ptr<Metrics>(new Metrics(std::move(parts)));
}

void Metrics::Observe(absl::string_view method, absl::string_view code, double seconds) {
  parts_->operations
      .Add({{"driver_name", parts_->driver_name},
            {"method_name", std::string(method)},
            {"grpc_status_code", std::string(code)}},
           BucketsSeconds())
      .Observe(seconds);
}

}  // namespace ublkd::csi
