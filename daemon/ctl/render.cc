// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/render.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "daemon/base/fail_after.h"
#include "daemon/base/size.h"
#include "daemon/base/version.h"

namespace ublkd::ctl {
namespace {

constexpr char kNothing[] = "-";
/// Requests that wait longer are worth a line.
constexpr double kLongWaitSeconds = 1;
constexpr Table::Align kRight = Table::Align::kRight;

std::string OrNothing(const std::string& text) { return text.empty() ? kNothing : text; }

// "1.5 GiB (1610612736 bytes)"
std::string SizeInFull(uint64_t bytes) {
  return absl::StrCat(FormatBytes(bytes), " (", bytes, " bytes)");
}

std::string Time(bool known, const google::protobuf::Timestamp& time) {
  if (!known) return kNothing;
  return absl::FormatTime("%Y-%m-%d %H:%M:%SZ", absl::FromUnixSeconds(time.seconds()),
                          absl::UTCTimeZone());
}

// An enum that a newer server knows and we do not is shown by its number.
std::string UnknownNumber(int number) { return absl::StrCat("unknown (", number, ")"); }

Cell State(v1::Device::State state) {
  switch (state) {
    case v1::Device::STATE_LIVE:
      return {"live", Colour::kGreen};
    case v1::Device::STATE_QUIESCED:
      return {"quiesced", Colour::kYellow};
    case v1::Device::STATE_RECOVERING:
      return {"recovering", Colour::kYellow};
    case v1::Device::STATE_FAILED:
      return {"failed", Colour::kRed};
    default:
      return {UnknownNumber(state), Colour::kNone};
  }
}

std::string Provisioning(v1::Provisioning provisioning) {
  switch (provisioning) {
    case v1::PROVISIONING_THIN:
      return "thin";
    case v1::PROVISIONING_THICK:
      return "thick";
    default:
      return kNothing;
  }
}

std::string Content(v1::Content content) {
  switch (content) {
    case v1::CONTENT_EMPTY:
      return "empty: nothing was ever written";
    case v1::CONTENT_PRESENT:
      return "written";
    default:
      return "not known";
  }
}

// A word for the table.
Cell FormatWord(const v1::Format& format) {
  switch (format.state()) {
    case v1::Format::STATE_NEVER:
      return "none";
    case v1::Format::STATE_FORMATTING:
      return {absl::StrCat(format.fs_type(), ", unfinished"), Colour::kYellow};
    case v1::Format::STATE_FORMATTED:
      return OrNothing(format.fs_type());
    default:
      return kNothing;
  }
}

std::string FormatInFull(const v1::Format& format) {
  const std::string since =
      format.has_changed_at() ? absl::StrCat(", since ", Time(true, format.changed_at())) : "";
  const std::string uuid =
      format.fs_uuid().empty() ? "" : absl::StrCat(", UUID ", format.fs_uuid());
  switch (format.state()) {
    case v1::Format::STATE_NEVER:
      return "none: never formatted";
    case v1::Format::STATE_FORMATTING:
      return absl::StrCat(format.fs_type(), " begun and not finished", uuid, since);
    case v1::Format::STATE_FORMATTED:
      if (format.fs_type() == "block") return absl::StrCat("raw block device", since);
      return absl::StrCat(format.fs_type(), uuid, since);
    default:
      return "not known: will not be formatted";
  }
}

std::string Labels(const v1::Volume& volume) {
  // The protocol's map has no order; people like one.
  const std::map<std::string, std::string> sorted(volume.labels().begin(), volume.labels().end());
  return OrNothing(absl::StrJoin(sorted, ", ", absl::PairFormatter("=")));
}

std::string Access(const v1::Device& device) {
  if (device.foreign()) return kNothing;
  return device.spec().read_only() ? "ro" : "rw";
}

std::string NumberOrNothing(uint32_t number) {
  return number == 0 ? std::string(kNothing) : absl::StrCat(number);
}

std::string Buffers(v1::BufferMode mode) {
  for (const auto& [name, known] : kBufferModes) {
    if (known == mode) return name;
  }
  return std::string(kNothing);
}

// Who serves a device, in words.
std::string Server(const v1::Device& device) {
  if (device.server_pid() == 0) return "nobody";
  return absl::StrCat("process ", device.server_pid());
}

// "12 write (last: No space left on device), 1 read (last: Input/output error)"
Cell Errors(const v1::Device& device) {
  if (device.io_errors().empty()) return "none";
  const auto name_errors = [](std::string* out, const v1::IoErrors& errors) {
    absl::StrAppend(out, errors.count(), " ", errors.op(), " (last: ", errors.last_error(), ")");
  };
  return {absl::StrJoin(device.io_errors(), ", ", name_errors), Colour::kRed};
}

std::string TargetOrServer(const v1::Device& device) {
  if (!device.foreign()) return DescribeTarget(device.spec());
  return absl::StrCat("not ours, served by ", Server(device));
}

// Empty without any.
std::string Limits(const v1::DeviceLimits& limits, bool bursts) {
  std::vector<std::string> parts;
  if (limits.iops() != 0) {
    parts.push_back(absl::StrCat(limits.iops(), " IOPS"));
    if (bursts) absl::StrAppend(&parts.back(), " (burst ", limits.burst_ios(), ")");
  }
  if (limits.bytes_per_second() != 0) {
    parts.push_back(absl::StrCat(FormatBytes(limits.bytes_per_second()), "/s"));
    if (bursts) absl::StrAppend(&parts.back(), " (burst ", FormatBytes(limits.burst_bytes()), ")");
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace

std::string DescribeLimits(const v1::DeviceLimits& limits) {
  const std::string text = Limits(limits, /*bursts=*/true);
  return text.empty() ? "none" : text;
}

std::string DescribeTarget(const v1::DeviceSpec& spec) {
  switch (spec.target_case()) {
    case v1::DeviceSpec::kNull:
      return "null";
    case v1::DeviceSpec::kFile:
      return absl::StrCat("file ", spec.file().path());
    case v1::DeviceSpec::kVolume:
      return absl::StrCat("volume ", spec.volume().volume_id());
    case v1::DeviceSpec::TARGET_NOT_SET:
      break;
  }
  return "unknown";
}

std::string DescribeDevice(const v1::Device& device) {
  return absl::StrCat(device.path(), " (", DescribeTarget(device.spec()), ")");
}

std::string DescribeAttachment(const v1::Volume& volume) {
  return volume.has_device_id() ? absl::StrCat("/dev/ublkb", volume.device_id()) : kNothing;
}

bool HasSmallerDisk(const v1::Volume& volume) {
  return volume.has_device_size_bytes() && volume.device_size_bytes() < volume.size_bytes();
}

Table DeviceTable(const std::vector<v1::Device>& devices) {
  Table table({{"ID", kRight},
               {"PATH"},
               {"STATE"},
               {"SIZE", kRight},
               {"ACCESS"},
               {"QUEUES", kRight},
               {"DEPTH", kRight},
               {"BUFFERS"},
               {"LIMITS"},
               {"TARGET"}});
  for (const v1::Device& device : devices) {
    const v1::DeviceSpec& spec = device.spec();
    table.AddRow({absl::StrCat(device.id()), device.path(), State(device.state()),
                  FormatBytes(device.size_bytes()), Access(device), NumberOrNothing(spec.queues()),
                  NumberOrNothing(spec.depth()), Buffers(spec.buffer_mode()),
                  OrNothing(Limits(spec.limits(), /*bursts=*/false)), TargetOrServer(device)});
  }
  return table;
}

Details DeviceDetails(const v1::Device& device) {
  const v1::DeviceSpec& spec = device.spec();
  Details details;
  details.Add("id", absl::StrCat(device.id()));
  details.Add("path", device.path());
  details.Add("number", absl::StrCat(device.major(), ":", device.minor()));
  details.Add("state", State(device.state()));
  if (!device.reason().empty()) details.Add("reason", device.reason());
  details.Add("server", Server(device));
  if (device.state() == v1::Device::STATE_LIVE) details.Add("errors", Errors(device));
  if (device.oldest_request_seconds() >= kLongWaitSeconds) {
    const auto seconds = static_cast<int64_t>(device.oldest_request_seconds());
    details.Add("oldest request",
                {absl::StrCat("waits for the target, ", seconds, " s"), Colour::kRed});
  }
  details.Add("target", DescribeTarget(spec));
  details.Add("size", SizeInFull(device.size_bytes()));
  details.Add("block size", FormatBytes(spec.logical_block_bytes()));
  details.Add("access", spec.read_only() ? "read-only" : "read-write");
  const uint32_t threads = spec.threads_per_queue();
  details.Add("queues",
              absl::StrCat(spec.queues(), ", each ", spec.depth(), " deep",
                           threads > 1 ? absl::StrCat(", with ", threads, " threads") : ""));
  details.Add("largest request", FormatBytes(spec.max_io_bytes()));
  details.Add("buffers", Buffers(spec.buffer_mode()));
  details.Add("limits", DescribeLimits(spec.limits()));
  if (spec.has_fail_after_seconds()) {
    details.Add("fail after", FormatFailAfter(spec.fail_after_seconds()));
  }
  details.Add("features", OrNothing(absl::StrJoin(device.features(), " ")));
  details.Add("created", Time(device.has_created_at(), device.created_at()));
  return details;
}

Table VolumeTable(const std::vector<v1::Volume>& volumes) {
  Table table({{"VOLUME"},
               {"SIZE", kRight},
               {"ALLOCATED", kRight},
               {"PROVISIONING"},
               {"FORMAT"},
               {"DEVICE"},
               {"CREATED"}});
  for (const v1::Volume& volume : volumes) {
    table.AddRow({volume.id(), FormatBytes(volume.size_bytes()),
                  FormatBytes(volume.allocated_bytes()), Provisioning(volume.provisioning()),
                  FormatWord(volume.format()), DescribeAttachment(volume),
                  Time(volume.has_created_at(), volume.created_at())});
  }
  return table;
}

Details VolumeDetails(const v1::Volume& volume) {
  Details details;
  details.Add("volume", volume.id());
  details.Add("size", SizeInFull(volume.size_bytes()));
  details.Add("allocated", SizeInFull(volume.allocated_bytes()));
  details.Add("block size", FormatBytes(volume.logical_block_bytes()));
  details.Add("provisioning", Provisioning(volume.provisioning()));
  details.Add("content", Content(volume.content()));
  details.Add("format", FormatInFull(volume.format()));
  details.Add("device", HasSmallerDisk(volume)
                            ? absl::StrCat(DescribeAttachment(volume), ", still of ",
                                           SizeInFull(volume.device_size_bytes()))
                            : DescribeAttachment(volume));
  details.Add("labels", Labels(volume));
  details.Add("created", Time(volume.has_created_at(), volume.created_at()));
  details.Add("generation", absl::StrCat(volume.generation()));
  return details;
}

Table PoolTable(const std::vector<v1::Pool>& pools) {
  Table table({{"POOL"},
               {"TYPE"},
               {"TOTAL", kRight},
               {"AVAILABLE", kRight},
               {"VOLUMES", kRight},
               {"PATH"}});
  for (const v1::Pool& pool : pools) {
    table.AddRow({pool.name(), pool.type(), FormatBytes(pool.total_bytes()),
                  FormatBytes(pool.available_bytes()), absl::StrCat(pool.volumes()),
                  OrNothing(pool.path())});
  }
  return table;
}

Details ServerDetails(const v1::ServerInfo& info) {
  Details details;
  details.Add("ready", info.ready()
                           ? Cell("yes", Colour::kGreen)
                           : Cell(absl::StrCat("no: ", OrNothing(info.reason())), Colour::kRed));
  details.Add("ublkd", OrNothing(info.version()));
  details.Add("ublkctl", kVersion);
  details.Add("kernel", OrNothing(info.kernel()));
  details.Add("driver", info.driver_version().empty() ? "the kernel's own" : info.driver_version());
  details.Add("driver features", OrNothing(absl::StrJoin(info.driver_features(), " ")));
  details.Add("guard", info.guard_connected() ? "connected" : "none");
  return details;
}

}  // namespace ublkd::ctl
