// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/metrics.h"

#include <prometheus/text_serializer.h>

#include <array>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "daemon/base/version.h"
#include "daemon/server/device_service.h"
#include "daemon/server/process_metrics.h"

namespace ublkd::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Label = ClientMetric::Label;

constexpr double kNsPerSecond = 1e9;

MetricFamily Family(absl::string_view name, MetricType type, absl::string_view help) {
  return {absl::StrCat("ublkd_", name), std::string(help), type, {}};
}

/// The families about volumes, filled device by device.
struct VolumeFamilies {
  MetricFamily ios =
      Family("queue_ios_total", MetricType::Counter, "Requests answered, with success or not.");
  MetricFamily bytes =
      Family("queue_bytes_total", MetricType::Counter, "Bytes of the requests that succeeded.");
  MetricFamily errors =
      Family("queue_io_errors_total", MetricType::Counter, "Requests answered with an error.");
  MetricFamily errors_by_kind =
      Family("io_errors_total", MetricType::Counter,
             "Requests answered with an error, by the errno: EIO, ENOSPC or other.");
  MetricFamily oldest =
      Family("queue_oldest_request_seconds", MetricType::Gauge,
             "How long the oldest request that is being served has waited for its backend.");
  MetricFamily inflight =
      Family("queue_inflight", MetricType::Gauge, "Requests that are being served now.");
  MetricFamily busy = Family("queue_busy_seconds_total", MetricType::Counter,
                             "Time during which at least one request was being served.");
  MetricFamily latency = Family("io_latency_seconds", MetricType::Histogram,
                                "Time from taking a request, or from the end of its wait for a "
                                "limit, to answering it.");
  MetricFamily throttled_ios =
      Family("qos_throttled_ios_total", MetricType::Counter,
             "Requests that had to wait for a limit of the device, counted when they had waited.");
  MetricFamily throttled = Family("qos_throttled_seconds_total", MetricType::Counter,
                                  "Time that requests have waited for a limit of the device.");
  MetricFamily limit_iops =
      Family("qos_limit_iops", MetricType::Gauge, "I/Os that the device may do in a second.");
  MetricFamily limit_bytes = Family("qos_limit_bytes_per_second", MetricType::Gauge,
                                    "Bytes that the device may read and write in a second.");
  MetricFamily info =
      Family("volume_info", MetricType::Gauge, "What an attached volume is; always 1.");
  MetricFamily state = Family("volume_state", MetricType::Gauge,
                              "1 for the state that the device of a volume is in, else 0.");
};

void AddCounter(MetricFamily& family, const std::vector<Label>& labels, double value) {
  ClientMetric metric;
  metric.label = labels;
  metric.counter.value = value;
  family.metric.push_back(std::move(metric));
}

void AddGauge(MetricFamily& family, const std::vector<Label>& labels, double value) {
  ClientMetric metric;
  metric.label = labels;
  metric.gauge.value = value;
  family.metric.push_back(std::move(metric));
}

/// How the devices of earlier servers were taken over.
std::vector<MetricFamily> RecoveryFamilies(const volume::RecoveryStats& stats) {
  MetricFamily count = Family("recoveries_total", MetricType::Counter,
                              "Attempts to take over a device that another server left.");
  AddCounter(count, {{"result", "taken_over"}}, static_cast<double>(stats.taken_over));
  AddCounter(count, {{"result", "failed"}}, static_cast<double>(stats.failed));
  MetricFamily seconds =
      Family("recovery_seconds", MetricType::Histogram, "Time in which a device was taken over.");
  ClientMetric metric;
  uint64_t seen = 0;
  for (size_t i = 0; i < volume::RecoveryStats::kBoundsSeconds.size(); ++i) {
    seen += stats.buckets[i];
    metric.histogram.bucket.push_back({seen, volume::RecoveryStats::kBoundsSeconds[i]});
  }
  metric.histogram.sample_count = stats.taken_over;
  metric.histogram.sample_sum = stats.seconds;
  seconds.metric.push_back(std::move(metric));
  return {std::move(count), std::move(seconds)};
}

void AddHistogram(MetricFamily& family, std::vector<Label> labels, const ublk::OpStats& stats) {
  ClientMetric metric;
  metric.label = std::move(labels);
  uint64_t seen = 0;
  for (size_t i = 0; i < ublk::kLatencyBoundsNs.size(); ++i) {
    seen += stats.latency_buckets[i];
    metric.histogram.bucket.push_back(
        {seen, static_cast<double>(ublk::kLatencyBoundsNs[i]) / kNsPerSecond});
  }
  seen += stats.latency_buckets.back();
  // Of the same buckets and not `ios`, which may have moved on between two reads.
  metric.histogram.sample_count = seen;
  metric.histogram.sample_sum = static_cast<double>(stats.latency_sum_ns) / kNsPerSecond;
  family.metric.push_back(std::move(metric));
}

std::string VolumeIdOf(const volume::DeviceView& view) {
  const auto* volume = std::get_if<volume::VolumeSpec>(&view.spec.target);
  return volume != nullptr ? volume->id : absl::StrCat("device:", view.id);
}

const char* BackendOf(const volume::DeviceView& view) {
  return std::holds_alternative<volume::NullSpec>(view.spec.target) ? "null" : "file";
}

void AddQueue(VolumeFamilies& families, const std::string& volume_id, size_t number,
              const ublk::QueueStats& queue) {
  const Label volume{"volume_id", volume_id};
  const Label queue_label{"queue", absl::StrCat(number)};
  AddGauge(families.inflight, {volume, queue_label}, static_cast<double>(queue.in_flight()));
  AddGauge(families.oldest, {volume, queue_label},
           static_cast<double>(queue.oldest_request_ns) / kNsPerSecond);
  AddCounter(families.busy, {volume, queue_label},
             static_cast<double>(queue.busy_ns) / kNsPerSecond);
  for (const ublk::Op op : ublk::kAllOps) {
    const ublk::OpStats& stats = queue[op];
    // A series begins with its first request.
    if (stats.ios == 0) continue;
    const std::vector<Label> labels = {volume, queue_label, {"op", std::string(ublk::OpName(op))}};
    AddCounter(families.ios, labels, static_cast<double>(stats.ios));
    AddCounter(families.bytes, labels, static_cast<double>(stats.bytes));
    AddCounter(families.errors, labels, static_cast<double>(stats.errors));
    // One that was never held back has no series.
    if (stats.throttled_ios == 0) continue;
    AddCounter(families.throttled_ios, labels, static_cast<double>(stats.throttled_ios));
    AddCounter(families.throttled, labels, static_cast<double>(stats.throttled_ns) / kNsPerSecond);
  }
}

std::string ModeOf(const volume::DeviceView& view) {
  if (!view.spec.buffers.has_value()) return "";
  return std::string(ublk::BufferModeName(*view.spec.buffers));
}

void AddErrors(VolumeFamilies& families, const std::string& volume_id, ublk::Op op,
               const ublk::OpStats& total) {
  for (const ublk::ErrorKind kind : ublk::kAllErrorKinds) {
    const uint64_t count = total.errors_by_kind[static_cast<size_t>(kind)];
    if (count == 0) continue;
    AddCounter(families.errors_by_kind,
               {{"volume_id", volume_id},
                {"op", std::string(ublk::OpName(op))},
                {"error", std::string(ublk::ErrorKindName(kind))}},
               static_cast<double>(count));
  }
}

void AddInfo(VolumeFamilies& families, const std::string& volume_id, const volume::DeviceView& view,
             const volume::VolumeManager& volumes) {
  KubernetesNames names;
  std::string fs_type;
  if (const absl::StatusOr<volume::VolumeRecord> record = volumes.Describe(volume_id);
      record.ok()) {
    names = FindKubernetesNames(record->labels);
    fs_type = record->format.fs_type;
  }
  AddGauge(families.info,
           {{"volume_id", volume_id},
            {"device", absl::StrCat("ublkb", view.id)},
            {"persistentvolume", names.persistent_volume},
            {"persistentvolumeclaim", names.persistent_volume_claim},
            {"namespace", names.name_space},
            {"backend", BackendOf(view)},
            {"fstype", fs_type},
            {"mode", ModeOf(view)}},
           1);
}

void AddState(VolumeFamilies& families, const std::string& volume_id, volume::DeviceState state) {
  constexpr std::array kStates = {"live", "quiesced", "recovering", "failed"};
  // In the order of volume::DeviceState.
  for (size_t i = 0; i < kStates.size(); ++i) {
    AddGauge(families.state, {{"volume_id", volume_id}, {"state", kStates[i]}},
             static_cast<size_t>(state) == i ? 1 : 0);
  }
}

/// What has no limit has no series.
void AddLimit(MetricFamily& family, const std::string& volume_id, uint64_t limit) {
  if (limit != 0) AddGauge(family, {{"volume_id", volume_id}}, static_cast<double>(limit));
}

void AddDevice(VolumeFamilies& families, const volume::DeviceSnapshot& device,
               const volume::VolumeManager& volumes) {
  const std::string volume_id = VolumeIdOf(device.view);
  for (size_t number = 0; number < device.stats.queues.size(); ++number) {
    AddQueue(families, volume_id, number, device.stats.queues[number]);
  }
  for (const ublk::Op op : ublk::kAllOps) {
    const ublk::OpStats total = device.stats.Total(op);
    if (total.ios == 0) continue;
    AddErrors(families, volume_id, op, total);
    AddHistogram(families.latency,
                 {{"volume_id", volume_id}, {"op", std::string(ublk::OpName(op))}}, total);
  }
  const target::IoLimits limits = device.view.spec.limits.value_or(target::IoLimits());
  AddLimit(families.limit_iops, volume_id, limits.iops);
  AddLimit(families.limit_bytes, volume_id, limits.bytes_per_second);
  AddInfo(families, volume_id, device.view, volumes);
  AddState(families, volume_id, device.view.state);
}

MetricFamily BuildInfo() {
  MetricFamily family = Family("build_info", MetricType::Gauge, "What this ublkd is; always 1.");
  AddGauge(family, {{"version", kVersion}, {"kernel", KernelRelease()}}, 1);
  return family;
}

MetricFamily DriverFamily(volume::DeviceManager& devices) {
  MetricFamily family = Family("driver_info", MetricType::Gauge,
                               "What ublk driver is there, and why devices cannot be attached "
                               "where the reason is not \"none\"; always 1.");
  const absl::Status readiness = devices.Readiness();
  const volume::DriverInfo driver = devices.Driver();
  std::string source = "none";
  if (!driver.features.empty()) source = driver.version.empty() ? "kernel" : "ublkd";
  std::string reason = "none";
  if (absl::IsPermissionDenied(readiness)) {
    reason = "permission_denied";
  } else if (!readiness.ok()) {
    reason = "unavailable";
  }
  AddGauge(family, {{"version", driver.version}, {"source", source}, {"reason", reason}}, 1);
  return family;
}

MetricFamily GuardFamily(const volume::DeviceManager& devices) {
  MetricFamily family = Family("guard_connected", MetricType::Gauge,
                               "1 when ublkd-guard is there, which ends the wait of devices with "
                               "fail_after when ublkd stays away.");
  AddGauge(family, {}, devices.guarded() ? 1 : 0);
  return family;
}

}  // namespace

KubernetesNames FindKubernetesNames(const volume::Labels& labels) {
  const auto find = [&](const char* name, const char* key) -> std::string {
    for (const char* const candidate : {name, key}) {
      if (const auto found = labels.find(candidate); found != labels.end()) return found->second;
    }
    return "";
  };
  return {find("persistentvolume", "csi.storage.k8s.io/pv/name"),
          find("persistentvolumeclaim", "csi.storage.k8s.io/pvc/name"),
          find("namespace", "csi.storage.k8s.io/pvc/namespace")};
}

std::vector<MetricFamily> Metrics::Collect() const {
  VolumeFamilies families;
  for (const volume::DeviceSnapshot& device : devices_.Snapshot()) {
    AddDevice(families, device, volumes_);
  }
  std::vector<MetricFamily> all;
  for (MetricFamily* const family :
       {&families.ios, &families.bytes, &families.errors, &families.errors_by_kind,
        &families.inflight, &families.oldest, &families.busy, &families.latency,
        &families.throttled_ios, &families.throttled, &families.limit_iops, &families.limit_bytes,
        &families.info, &families.state}) {
    if (!family->metric.empty()) all.push_back(std::move(*family));
  }
  for (MetricFamily& family : RecoveryFamilies(devices_.Recoveries())) {
    all.push_back(std::move(family));
  }
  all.push_back(BuildInfo());
  all.push_back(DriverFamily(devices_));
  all.push_back(GuardFamily(devices_));
  for (MetricFamily& family : CollectProcessMetrics()) all.push_back(std::move(family));
  return all;
}

std::string SerializeMetrics(const prometheus::Collectable& metrics) {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, metrics.Collect());
  return out.str();
}

}  // namespace ublkd::server
