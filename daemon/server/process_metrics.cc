// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "daemon/base/file.h"

namespace ublkd::server {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

// Fields of /proc/self/stat by proc(5), counted from the third one, which follows the name.
constexpr size_t kUserTicks = 11;
constexpr size_t kSystemTicks = 12;
constexpr size_t kThreads = 17;
constexpr size_t kStartTicks = 19;
constexpr size_t kVirtualBytes = 20;
constexpr size_t kResidentPages = 21;

MetricFamily One(const char* name, MetricType type, const char* help, double value) {
  MetricFamily family{name, help, type, {}};
  family.metric.emplace_back();
  family.metric.back().counter.value = value;
  family.metric.back().gauge.value = value;
  return family;
}

// When the machine was started, in seconds since 1970.
std::optional<double> BootTime() {
  const absl::StatusOr<std::string> stat = ReadFile("/proc/stat");
  if (!stat.ok()) return std::nullopt;
  for (absl::string_view line : absl::StrSplit(*stat, '\n')) {
    double seconds = 0;
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(line, absl::MaxSplits(' ', 1));
    if (words.first == "btime" && absl::SimpleAtod(words.second, &seconds)) return seconds;
  }
  return std::nullopt;
}

void AddFromStat(std::vector<MetricFamily>& families) {
  const absl::StatusOr<std::string> stat = ReadFile("/proc/self/stat");
  if (!stat.ok()) return;
  // The name may hold anything, so the fields begin after its last parenthesis.
  const size_t name_end = stat->rfind(") ");
  if (name_end == std::string::npos) return;
  const std::vector<std::string> fields = absl::StrSplit(stat->substr(name_end + 2), ' ');
  const auto number = [&](size_t field) {
    double value = 0;
    return field < fields.size() && absl::SimpleAtod(fields[field], &value) ? value : 0;
  };
  const double ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  const double page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
  families.push_back(One("process_cpu_seconds_total", MetricType::Counter,
                         "CPU time in user and system mode.",
                         (number(kUserTicks) + number(kSystemTicks)) / ticks_per_second));
  families.push_back(One("process_resident_memory_bytes", MetricType::Gauge,
                         "Memory that is resident.", number(kResidentPages) * page_bytes));
  families.push_back(One("process_virtual_memory_bytes", MetricType::Gauge,
                         "Size of the address space.", number(kVirtualBytes)));
  families.push_back(
      One("process_threads", MetricType::Gauge, "Threads that exist.", number(kThreads)));
  if (const std::optional<double> boot = BootTime()) {
    families.push_back(One("process_start_time_seconds", MetricType::Gauge,
                           "When the process was started, since 1970.",
                           *boot + number(kStartTicks) / ticks_per_second));
  }
}

}  // namespace

std::vector<MetricFamily> CollectProcessMetrics() {
  std::vector<MetricFamily> families;
  AddFromStat(families);
  if (const auto open = ListDirectory("/proc/self/fd"); open.ok()) {
    families.push_back(One("process_open_fds", MetricType::Gauge, "Descriptors that are open.",
                           static_cast<double>(open->size())));
  }
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    families.push_back(One("process_max_fds", MetricType::Gauge, "Descriptors that may be open.",
                           static_cast<double>(limit.rlim_cur)));
  }
  return families;
}

}  // namespace ublkd::server
