// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/fail_after.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "daemon/ctl/command_tree.h"
#include "daemon/ctl/lookup.h"
#include "daemon/ctl/render.h"
#include "ublkd/v1/device.grpc.pb.h"

namespace ublkd::ctl {
namespace {

constexpr char kGroupExamples[] =
    R"(  ublkctl device create --volume fast/db
  ublkctl device list
  ublkctl device show 0
  ublkctl device limit 0 --iops-limit 5000
  ublkctl device resize 0
  ublkctl device delete /dev/ublkb0)";

constexpr char kCreateExamples[] =
    R"EX(  ublkctl device create --volume fast/db
  ublkctl device create --file disk.img --read-only
  ublkctl device create --volume fast/db --fail-after 5m
  ublkctl device create --null 1TiB --queues 4 --depth 64
  ublkctl device create --volume fast/db --iops-limit 5000 --bandwidth-limit 100MiB
  mkfs.ext4 "$(ublkctl device create --volume fast/db)")EX";

constexpr char kListExamples[] =
    R"(  ublkctl device list
  ublkctl device list --all
  ublkctl device list -o json | jq -r '.[] | select(.state != "STATE_LIVE") | .path')";

constexpr char kShowExamples[] =
    R"(  ublkctl device show 0
  ublkctl device show /dev/ublkb0 -o json)";

constexpr char kLimitExamples[] =
    R"(  ublkctl device limit 0 --iops-limit 5000 --iops-burst 10000
  ublkctl device limit /dev/ublkb0 --bandwidth-limit 100MiB
  ublkctl device limit 0 --iops-limit 0
  ublkctl device limit 0 --none)";

constexpr char kResizeExamples[] =
    R"EX(  truncate -s 20GiB disk.img && ublkctl device resize 0
  ublkctl device resize /dev/ublkb1 --size 2TiB)EX";

constexpr char kDeleteExamples[] =
    R"(  ublkctl device delete 0
  ublkctl device delete /dev/ublkb0 /dev/ublkb1)";

constexpr char kDeviceHelp[] = "Id of the device, or its path: 0 or /dev/ublkb0";

// The options that set limits; absent means not named.
struct LimitOptions {
  std::optional<uint64_t> iops;
  std::optional<uint64_t> burst_ios;
  std::optional<uint64_t> bytes_per_second;
  std::optional<uint64_t> burst_bytes;

  bool any() const {
    return iops.has_value() || burst_ios.has_value() || bytes_per_second.has_value() ||
           burst_bytes.has_value();
  }
};

void AddOptionalSize(CLI::App* command, const std::string& name, std::optional<uint64_t>& bytes,
                     const std::string& description) {
  command
      ->add_option_function<std::string>(
          name, [name, &bytes](const std::string& text) { bytes = ParseSizeOrThrow(name, text); },
          description)
      ->type_name("SIZE");
}

// `options` outlives the command.
void AddLimitOptions(CLI::App* command, LimitOptions& options) {
  command
      ->add_option("--iops-limit", options.iops,
                   "The most reads and writes in a second; 0 for no limit")
      ->type_name("N");
  command
      ->add_option("--iops-burst", options.burst_ios,
                   "As many at once after idling; default a tenth of the limit")
      ->type_name("N");
  AddOptionalSize(command, "--bandwidth-limit", options.bytes_per_second,
                  "The most bytes read and written in a second; 0 for no limit");
  AddOptionalSize(command, "--bandwidth-burst", options.burst_bytes,
                  "As many at once after idling; default a tenth of the limit");
}

// What is not named stays as it is; a limit that is named without its burst gets the default one.
void ApplyTo(v1::DeviceLimits& limits, const LimitOptions& options) {
  if (options.iops.has_value()) {
    limits.set_iops(*options.iops);
    limits.clear_burst_ios();
  }
  if (options.burst_ios.has_value()) limits.set_burst_ios(*options.burst_ios);
  if (options.bytes_per_second.has_value()) {
    limits.set_bytes_per_second(*options.bytes_per_second);
    limits.clear_burst_bytes();
  }
  if (options.burst_bytes.has_value()) limits.set_burst_bytes(*options.burst_bytes);
}

// The values of the options of `device create`.
struct CreateOptions {
  std::string volume;
  std::string file;
  std::optional<uint64_t> null_bytes;
  std::optional<uint32_t> id;
  uint32_t queues = 0;
  uint32_t depth = 0;
  uint32_t threads_per_queue = 0;
  uint32_t block_bytes = 0;
  uint32_t max_io_bytes = 0;
  bool read_only = false;
  std::string buffers;
  LimitOptions limits;
  std::optional<uint32_t> fail_after_seconds;
};

absl::StatusOr<v1::CreateDeviceRequest> MakeRequest(const CreateOptions& options) {
  const int targets = (options.volume.empty() ? 0 : 1) + (options.file.empty() ? 0 : 1) +
                      (options.null_bytes.has_value() ? 1 : 0);
  if (targets != 1) {
    return UsageError(
        "`ublkctl device create` needs one of --volume POOL/NAME, --file PATH and --null SIZE");
  }
  v1::CreateDeviceRequest request;
  v1::DeviceSpec& spec = *request.mutable_spec();
  if (!options.volume.empty()) spec.mutable_volume()->set_volume_id(options.volume);
  if (!options.file.empty()) {
    std::error_code error;
    const std::filesystem::path absolute = std::filesystem::absolute(options.file, error);
    if (error) {
      return UsageError(absl::StrCat("--file ", options.file,
                                     " is relative and the current folder ",
                                     "is not known: ", error.message(), "; give an absolute path"));
    }
    spec.mutable_file()->set_path(absolute.lexically_normal().string());
  }
  if (options.null_bytes.has_value()) spec.mutable_null()->set_size_bytes(*options.null_bytes);
  if (options.id.has_value()) spec.set_id(*options.id);
  spec.set_queues(options.queues);
  spec.set_depth(options.depth);
  spec.set_threads_per_queue(options.threads_per_queue);
  spec.set_logical_block_bytes(options.block_bytes);
  spec.set_max_io_bytes(options.max_io_bytes);
  spec.set_read_only(options.read_only);
  for (const auto& [name, mode] : kBufferModes) {
    if (options.buffers == name) spec.set_buffer_mode(mode);
  }
  if (options.limits.any()) ApplyTo(*spec.mutable_limits(), options.limits);
  if (options.fail_after_seconds.has_value()) {
    spec.set_fail_after_seconds(*options.fail_after_seconds);
  }
  return request;
}

absl::Status CreateDevice(Session& session, const CreateOptions& options) {
  UBLKD_ASSIGN_OR_RETURN(const v1::CreateDeviceRequest request, MakeRequest(options));
  UBLKD_ASSIGN_OR_RETURN(const v1::Device device,
                         session.client().Call(&v1::DeviceService::Stub::CreateDevice, request));
  session.PrintAnswer(device, device.path());
  return absl::OkStatus();
}

void AddCreate(CommandTree& tree, CLI::App* group) {
  const auto options = std::make_shared<CreateOptions>();
  CLI::App* command = tree.AddCommand(
      group, "create",
      "Attach a volume, a file or nothing as a block device, and print its path.\n"
      "Attaching a volume again in the same way prints the device that serves it.",
      kCreateExamples,
      [options](Session& session) { return Report(CreateDevice(session, *options)); });
  tree.SetKind(command->add_option("--volume", options->volume, "Attach this volume")
                   ->type_name("POOL/NAME"),
               {ValueKind::kVolume});
  tree.SetKind(
      command->add_option("--file", options->file, "Attach this regular file or block device")
          ->type_name("PATH"),
      {ValueKind::kFile});
  command
      ->add_option_function<std::string>(
          "--null",
          [options](const std::string& text) {
            options->null_bytes = ParseSizeOrThrow("--null", text);
          },
          "Attach nothing: reads return zeroes, writes are forgotten")
      ->type_name("SIZE");
  command->add_option("--id", options->id, "Become /dev/ublkbN; default the lowest free N")
      ->type_name("N");
  command
      ->add_option("--queues", options->queues,
                   "Hardware queues; default one for each CPU up to ublkd's cap")
      ->type_name("N");
  command
      ->add_option("--depth", options->depth,
                   "Requests in flight for each queue; default 256 shared by all, 64 to 128 each")
      ->type_name("N");
  command
      ->add_option("--threads-per-queue", options->threads_per_queue,
                   "Threads that share a queue's requests; default 1, which costs the least")
      ->type_name("N");
  AddSizeOption(command, "--block-size", &options->block_bytes,
                "Logical block, 512 or 4KiB; default what the volume or file asks for");
  AddSizeOption(command, "--max-io", &options->max_io_bytes,
                "Largest single request; default 512KiB");
  command->add_flag("--read-only", options->read_only, "Refuse writes");
  std::vector<std::string> buffers;
  for (const auto& [name, mode] : kBufferModes) buffers.emplace_back(name);
  tree.SetKind(command
                   ->add_option("--buffers", options->buffers,
                                "How data reaches the target: copy, user-copy or zero-copy; "
                                "default the cheapest that works")
                   ->type_name("MODE"),
               {ValueKind::kChoice, buffers});
  AddLimitOptions(command, options->limits);
  command
      ->add_option_function<std::string>(
          "--fail-after",
          [options](const std::string& text) {
            const absl::StatusOr<uint32_t> seconds = ParseFailAfter(text);
            if (!seconds.ok()) {
              throw CLI::ValidationError("--fail-after", std::string(seconds.status().message()));
            }
            options->fail_after_seconds = *seconds;
          },
          "How long users wait for a server that stays away before they get errors, such as 5m, "
          "or wait: for ever; default is ublkd's")
      ->type_name("TIME");
}

void AddList(CommandTree& tree, CLI::App* group) {
  const auto all = std::make_shared<bool>(false);
  CLI::App* command = tree.AddCommand(group, "list", "List the devices in the order of their ids.",
                                      kListExamples, [all](Session& session) {
                                        const auto devices = ListDevices(session.client(), *all);
                                        if (!devices.ok()) return Report(devices.status());
                                        if (session.wants_json()) {
                                          session.Print(ToJsonArray(*devices));
                                        } else {
                                          session.Print(DeviceTable(*devices));
                                        }
                                        return ExitCode::kDone;
                                      });
  command->add_flag("--all", *all, "Also those that others made, which ublkd leaves alone");
}

absl::StatusOr<v1::Device> GetDevice(Session& session, uint32_t id) {
  v1::GetDeviceRequest request;
  request.set_id(id);
  return session.client().Call(&v1::DeviceService::Stub::GetDevice, request);
}

absl::Status ShowDevice(Session& session, const std::string& name) {
  UBLKD_ASSIGN_OR_RETURN(const uint32_t id, ParseDeviceId(name));
  UBLKD_ASSIGN_OR_RETURN(const v1::Device device, GetDevice(session, id));
  session.PrintAnswer(device, DeviceDetails(device));
  return absl::OkStatus();
}

void AddShow(CommandTree& tree, CLI::App* group) {
  const auto name = std::make_shared<std::string>();
  CLI::App* command =
      tree.AddCommand(group, "show", "Show all that is known about a device.", kShowExamples,
                      [name](Session& session) { return Report(ShowDevice(session, *name)); });
  tree.SetKind(command->add_option("DEVICE", *name, kDeviceHelp)->required(), {ValueKind::kDevice});
}

absl::Status LimitDevice(Session& session, const std::string& name, bool none,
                         const LimitOptions& options) {
  UBLKD_ASSIGN_OR_RETURN(const uint32_t id, ParseDeviceId(name));
  if (none == options.any()) {
    return UsageError(
        "`ublkctl device limit` needs limits, such as --iops-limit N and --bandwidth-limit SIZE, "
        "or --none to take all off");
  }
  v1::SetDeviceLimitsRequest request;
  request.set_id(id);
  v1::DeviceLimits& limits = *request.mutable_limits();
  if (!none) {
    UBLKD_ASSIGN_OR_RETURN(const v1::Device before, GetDevice(session, id));
    limits = before.spec().limits();
    ApplyTo(limits, options);
  }
  UBLKD_ASSIGN_OR_RETURN(const v1::Device device,
                         session.client().Call(&v1::DeviceService::Stub::SetDeviceLimits, request));
  session.PrintAnswer(device, absl::StrCat("limits of ", device.path(), ": ",
                                           DescribeLimits(device.spec().limits())));
  return absl::OkStatus();
}

absl::Status ResizeDevice(Session& session, const std::string& name, uint64_t size_bytes) {
  v1::ResizeDeviceRequest request;
  UBLKD_ASSIGN_OR_RETURN(const uint32_t id, ParseDeviceId(name));
  request.set_id(id);
  request.set_size_bytes(size_bytes);
  UBLKD_ASSIGN_OR_RETURN(const v1::Device device,
                         session.client().Call(&v1::DeviceService::Stub::ResizeDevice, request));
  session.PrintAnswer(
      device, absl::StrCat(DescribeDevice(device), " has ", FormatBytes(device.size_bytes())));
  return absl::OkStatus();
}

void AddLimit(CommandTree& tree, CLI::App* group) {
  struct Values {
    std::string name;
    bool none = false;
    LimitOptions limits;
  };
  const auto values = std::make_shared<Values>();
  CLI::App* command = tree.AddCommand(
      group, "limit",
      "Limit what a device may do, also while it is in use; what is not named stays.\n"
      "Reads and writes count together, and what comes faster waits.",
      kLimitExamples, [values](Session& session) {
        return Report(LimitDevice(session, values->name, values->none, values->limits));
      });
  tree.SetKind(command->add_option("DEVICE", values->name, kDeviceHelp)->required(),
               {ValueKind::kDevice});
  AddLimitOptions(command, values->limits);
  command->add_flag("--none", values->none, "Take all limits off");
}

void AddResize(CommandTree& tree, CLI::App* group) {
  struct Options {
    std::string name;
    uint64_t size_bytes = 0;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = tree.AddCommand(
      group, "resize",
      "Make a disk larger while it is in use, after the file that it serves has grown.\n"
      "The disk of a volume grows with that: `ublkctl volume resize`.",
      kResizeExamples, [options](Session& session) {
        return Report(ResizeDevice(session, options->name, options->size_bytes));
      });
  tree.SetKind(command->add_option("DEVICE", options->name, kDeviceHelp)->required(),
               {ValueKind::kDevice});
  AddSizeOption(command, "--size", &options->size_bytes,
                "New size; default all that the file has by now. Needed for --null devices");
}

// Detaches one device and appends what became of it to `results`.
absl::Status DeleteDevice(Session& session, uint32_t id, Json& results) {
  // Deleting what is not there is success for ublkd; looking first tells which it was.
  const absl::StatusOr<v1::Device> device = GetDevice(session, id);
  const bool absent = absl::IsNotFound(device.status());
  if (!device.ok() && !absent) return device.status();
  v1::DeleteDeviceRequest request;
  request.set_id(id);
  const auto answer = session.client().Call(&v1::DeviceService::Stub::DeleteDevice, request);
  if (!answer.ok()) return answer.status();
  results.push_back({{"id", id}, {"deleted", !absent}});
  if (session.wants_json()) return absl::OkStatus();
  session.PrintLine(absent
                        ? absl::StrCat("device ", id, " was not there: nothing to do")
                        : absl::StrCat("device ", id, " is detached: ", DescribeDevice(*device)));
  return absl::OkStatus();
}

ExitCode DeleteDevices(Session& session, const std::vector<std::string>& names) {
  std::vector<uint32_t> ids;
  for (const std::string& name : names) {
    const absl::StatusOr<uint32_t> id = ParseDeviceId(name);
    if (!id.ok()) return Report(id.status());
    ids.push_back(*id);
  }
  ExitCode worst = ExitCode::kDone;
  Json results = Json::array();
  for (const uint32_t id : ids) {
    const ExitCode code = Report(DeleteDevice(session, id, results));
    worst = std::max(worst, code);
    // The others would wait for the same server in vain.
    if (code == ExitCode::kUnreachable) break;
  }
  if (session.wants_json()) session.Print(results);
  return worst;
}

void AddDelete(CommandTree& tree, CLI::App* group) {
  const auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* command = tree.AddCommand(
      group, "delete",
      "Detach devices; volumes and files keep their data.\n"
      "A device that is open or mounted is refused; one that is not there is fine.",
      kDeleteExamples, [names](Session& session) { return DeleteDevices(session, *names); });
  tree.SetKind(command->add_option("DEVICE", *names, kDeviceHelp)->required(),
               {ValueKind::kDevice});
}

}  // namespace

void AddDeviceCommands(CommandTree& tree) {
  CLI::App* group =
      tree.AddGroup("device", "Attach, resize and detach block devices.", kGroupExamples);
  AddCreate(tree, group);
  AddList(tree, group);
  AddShow(tree, group);
  AddLimit(tree, group);
  AddResize(tree, group);
  AddDelete(tree, group);
}

}  // namespace ublkd::ctl
