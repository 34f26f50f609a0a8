// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/control.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"
#include "daemon/ublk/abi.h"
#include "daemon/ublk/parameters.h"

namespace ublkd::ublk {
namespace {

constexpr uint16_t kNoQueue = 0xffff;
constexpr uint32_t kAnyDevice = ~uint32_t{0};
/// The kernel's own "not supported", which has no name outside of it; old drivers answer it.
constexpr int kKernelNotSupported = 524;

DeviceInfo Decode(const ublksrv_ctrl_dev_info& info) {
  return {.id = info.dev_id,
          .queues = info.nr_hw_queues,
          .depth = info.queue_depth,
          .state = static_cast<DeviceState>(info.state),
          .max_io_bytes = info.max_io_buf_bytes,
          .server_pid = info.ublksrv_pid,
          .features = Features(info.flags),
          .cookie = info.ublksrv_flags};
}

absl::Status CommandError(int result, absl::string_view what) {
  switch (-result) {
    case kKernelNotSupported:
      return ErrnoStatus(EOPNOTSUPP, what, "load a newer ublk driver");
    case ENODEV:
      return absl::NotFoundError(absl::StrCat(what, ": there is no such ublk device"));
    default:
      return ErrnoStatus(-result, what);
  }
}

std::string DeviceName(uint32_t id) { return absl::StrCat("ublk device ", id); }

}  // namespace

struct Control::Command {
  uint32_t opcode = 0;
  uint32_t device = 0;
  uint16_t queue = kNoQueue;
  void* buffer = nullptr;
  uint16_t buffer_bytes = 0;
  uint64_t data = 0;
};

Control::Control(UniqueFd fd) : fd_(std::move(fd)) {}
Control::~Control() = default;

absl::StatusOr<std::unique_ptr<Control>> Control::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) {
    const int error = errno;
    if (error == ENOENT || error == ENXIO || error == ENODEV) {
      return absl::UnavailableError(absl::StrCat(
          path, ": the ublk driver is not loaded; load the module ublk_drv (modprobe ublk_drv)"));
    }
    return ErrnoStatus(error, absl::StrCat("open ", path),
                       "run as root, or give the container the device and CAP_SYS_ADMIN");
  }
  std::unique_ptr<Control> control(new Control(std::move(fd)));
  UBLKD_ASSIGN_OR_RETURN(std::unique_ptr<uring::CommandRing> ring, control->TakeRing());
  {
    const absl::MutexLock lock(&control->mutex_);
    control->idle_rings_.push_back(std::move(ring));
  }

  uint64_t bits = 0;
  static_assert(sizeof(bits) == UBLK_FEATURES_LEN);
  UBLKD_RETURN_IF_ERROR(control->ExecuteForStatus(
      {.opcode = UBLK_U_CMD_GET_FEATURES, .buffer = &bits, .buffer_bytes = sizeof(bits)},
      "ask the ublk driver for its features"));
  control->features_ = Features(bits);
  if (!control->features_.Has(Feature::kCmdIoctlEncode)) {
    return absl::UnimplementedError(absl::StrCat(
        path, ": the ublk driver does not know the commands of Linux 6.4; load a newer one"));
  }
  return control;
}

absl::StatusOr<std::unique_ptr<uring::CommandRing>> Control::TakeRing() {
  {
    const absl::MutexLock lock(&mutex_);
    if (!idle_rings_.empty()) {
      std::unique_ptr<uring::CommandRing> ring = std::move(idle_rings_.back());
      idle_rings_.pop_back();
      return ring;
    }
  }
  return uring::CommandRing::Create();
}

int Control::Execute(const Command& command, int64_t wait_ms) {
  auto ring = TakeRing();
  if (!ring.ok()) return -ENOMEM;
  ublksrv_ctrl_cmd payload = {};
  payload.dev_id = command.device;
  payload.queue_id = command.queue;
  payload.len = command.buffer_bytes;
  payload.addr = reinterpret_cast<uintptr_t>(command.buffer);
  payload.data[0] = command.data;
  const int result = (*ring)->Run(fd_.get(), command.opcode, &payload, sizeof(payload), wait_ms);
  const absl::MutexLock lock(&mutex_);
  idle_rings_.push_back(*std::move(ring));
  return result;
}

absl::Status Control::ExecuteForStatus(const Command& command, absl::string_view what,
                                       int64_t wait_ms) {
  const int result = Execute(command, wait_ms);
  return result < 0 ? CommandError(result, what) : absl::OkStatus();
}

absl::StatusOr<DeviceInfo> Control::AddDevice(const AddDeviceRequest& request) {
  ublksrv_ctrl_dev_info info = {};
  info.nr_hw_queues = request.queues;
  info.queue_depth = request.depth;
  info.max_io_buf_bytes = request.max_io_bytes;
  info.dev_id = request.id.value_or(kAnyDevice);
  info.flags = request.features.bits();
  info.ublksrv_flags = request.cookie;
  const int result = Execute({.opcode = UBLK_U_CMD_ADD_DEV,
                              .device = info.dev_id,
                              .buffer = &info,
                              .buffer_bytes = sizeof(info)});
  if (result == -EEXIST && request.id.has_value()) {
    return absl::AlreadyExistsError(
        absl::StrCat(DeviceName(*request.id), ": the id is in use; choose another or none"));
  }
  if (result < 0) return CommandError(result, "add a ublk device");
  return Decode(info);
}

absl::Status Control::DeleteDevice(uint32_t id, DeleteMode mode, int64_t wait_ms) {
  const std::string what = absl::StrCat("delete ", DeviceName(id));
  if (mode == DeleteMode::kAsync) {
    return ExecuteForStatus({.opcode = UBLK_U_CMD_DEL_DEV_ASYNC, .device = id}, what);
  }
  const int result = Execute({.opcode = UBLK_U_CMD_DEL_DEV, .device = id}, wait_ms);
  if (result == -ETIMEDOUT) {
    return absl::DeadlineExceededError(absl::StrCat(
        what, ": somebody still has the disk open; the id is free when they close it"));
  }
  return result < 0 ? CommandError(result, what) : absl::OkStatus();
}

absl::Status Control::StartDevice(uint32_t id, pid_t server_pid) {
  return ExecuteForStatus(
      {.opcode = UBLK_U_CMD_START_DEV, .device = id, .data = static_cast<uint64_t>(server_pid)},
      absl::StrCat("start ", DeviceName(id)));
}

absl::Status Control::StopDevice(uint32_t id) {
  return ExecuteForStatus({.opcode = UBLK_U_CMD_STOP_DEV, .device = id},
                          absl::StrCat("stop ", DeviceName(id)));
}

absl::Status Control::TryStopDevice(uint32_t id) {
  const std::string what = absl::StrCat("stop ", DeviceName(id));
  if (!features_.Has(Feature::kSafeStopDev)) {
    return absl::UnimplementedError(absl::StrCat(what, ": the driver has no safe stop"));
  }
  const int result = Execute({.opcode = UBLK_U_CMD_TRY_STOP_DEV, .device = id});
  if (result == -EBUSY) {
    return absl::FailedPreconditionError(
        absl::StrCat("/dev/ublkb", id, ": it is open or mounted; unmount or close it first"));
  }
  return result < 0 ? CommandError(result, what) : absl::OkStatus();
}

absl::Status Control::StartRecovery(uint32_t id) {
  const std::string what = absl::StrCat("recover ", DeviceName(id));
  const int result = Execute({.opcode = UBLK_U_CMD_START_USER_RECOVERY, .device = id});
  if (result == -EBUSY) {
    return absl::UnavailableError(absl::StrCat(what, ": it is still served; stop its server"));
  }
  return result < 0 ? CommandError(result, what) : absl::OkStatus();
}

absl::Status Control::EndRecovery(uint32_t id, pid_t server_pid) {
  return ExecuteForStatus({.opcode = UBLK_U_CMD_END_USER_RECOVERY,
                           .device = id,
                           .data = static_cast<uint64_t>(server_pid)},
                          absl::StrCat("take over ", DeviceName(id)));
}

absl::Status Control::SetParameters(uint32_t id, const Geometry& geometry, uint32_t max_io_bytes) {
  ublk_params params = EncodeParameters(geometry, max_io_bytes);
  return ExecuteForStatus({.opcode = UBLK_U_CMD_SET_PARAMS,
                           .device = id,
                           .buffer = &params,
                           .buffer_bytes = sizeof(params)},
                          absl::StrCat("set the parameters of ", DeviceName(id)));
}

absl::StatusOr<Parameters> Control::GetParameters(uint32_t id) {
  ublk_params params = {};
  params.len = sizeof(params);
  UBLKD_RETURN_IF_ERROR(ExecuteForStatus({.opcode = UBLK_U_CMD_GET_PARAMS,
                                          .device = id,
                                          .buffer = &params,
                                          .buffer_bytes = sizeof(params)},
                                         absl::StrCat("get the parameters of ", DeviceName(id))));
  return DecodeParameters(params);
}

absl::StatusOr<DeviceInfo> Control::GetDeviceInfo(uint32_t id) {
  ublksrv_ctrl_dev_info info = {};
  UBLKD_RETURN_IF_ERROR(ExecuteForStatus({.opcode = UBLK_U_CMD_GET_DEV_INFO,
                                          .device = id,
                                          .buffer = &info,
                                          .buffer_bytes = sizeof(info)},
                                         absl::StrCat("look at ", DeviceName(id))));
  return Decode(info);
}

absl::Status Control::UpdateSize(uint32_t id, uint64_t size_bytes) {
  const std::string what = absl::StrCat("resize ", DeviceName(id));
  if (!features_.Has(Feature::kUpdateSize)) {
    return absl::UnimplementedError(absl::StrCat(what, ": the driver cannot resize a disk"));
  }
  return ExecuteForStatus(
      {.opcode = UBLK_U_CMD_UPDATE_SIZE, .device = id, .data = size_bytes / kSectorBytes}, what);
}

absl::StatusOr<cpu_set_t> Control::QueueAffinity(uint32_t id, uint16_t queue) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  UBLKD_RETURN_IF_ERROR(
      ExecuteForStatus({.opcode = UBLK_U_CMD_GET_QUEUE_AFFINITY,
                        .device = id,
                        .buffer = &cpus,
                        .buffer_bytes = sizeof(cpus),
                        .data = queue},
                       absl::StrCat("get the CPUs of queue ", queue, " of ", DeviceName(id))));
  return cpus;
}

}  // namespace ublkd::ublk
