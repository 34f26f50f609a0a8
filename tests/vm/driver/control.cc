// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/control.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kInterruptUserData = 1;

}  // namespace

bool Eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return condition();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

bool DriverIsOurs() {
  return PathExists("/sys/module/ublk_drv/version") || std::getenv("UBLK_JUDGE_STOCK") != nullptr;
}

std::string CharPath(uint32_t id) { return "/dev/ublkc" + std::to_string(id); }
std::string DiskPath(uint32_t id) { return "/dev/ublkb" + std::to_string(id); }

bool PartitionScanHasEnded(const std::string& disk) {
  const std::string stat = "/sys/block/" + disk.substr(disk.rfind('/') + 1) + "/stat";
  // It has begun when a read was done, and opening waits for its end.
  const bool begun = Eventually([&] {
    uint64_t reads = 0;
    std::ifstream(stat) >> reads;
    return reads > 0;
  });
  const int fd = open(disk.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd >= 0) close(fd);
  return begun && fd >= 0;
}

bool PathExists(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0;
}

Ring::Ring(unsigned entries, unsigned flags) {
  io_uring_params params = {};
  params.flags = flags;
  error_ = io_uring_queue_init_params(entries, &ring_, &params);
}

Ring::~Ring() {
  if (error_ == 0) io_uring_queue_exit(&ring_);
}

io_uring_sqe* Ring::Command(int fd, uint32_t op) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {  // full
    io_uring_submit(&ring_);
    sqe = io_uring_get_sqe(&ring_);
  }
  const bool wide = (ring_.flags & IORING_SETUP_SQE128) != 0;
  std::memset(sqe, 0, wide ? 2 * sizeof(*sqe) : sizeof(*sqe));
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = fd;
  sqe->cmd_op = op;
  return sqe;
}

std::optional<int> Ring::Finish(std::chrono::milliseconds limit) {
  __kernel_timespec time = {};
  time.tv_sec = limit.count() / 1000;
  time.tv_nsec = limit.count() % 1000 * 1000000;
  io_uring_cqe* cqe = nullptr;
  io_uring_submit(&ring_);
  int err;
  do {
    err = io_uring_wait_cqe_timeout(&ring_, &cqe, &time);
  } while (err == -EINTR);
  if (err != 0) return std::nullopt;
  const int res = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  return res;
}

Control::Control(unsigned ring_flags)
    : fd_(open("/dev/ublk-control", O_RDWR | O_CLOEXEC)), ring_(8, ring_flags) {}

Control::~Control() { close(fd_); }

void Control::Send(uint32_t op, const ControlArgs& args, uint8_t sqe_flags) {
  ublksrv_ctrl_cmd command = {};
  command.dev_id = args.dev_id;
  command.queue_id = args.queue_id;
  command.len = args.len;
  command.addr = reinterpret_cast<uintptr_t>(args.addr);
  command.data[0] = args.data;
  command.dev_path_len = args.path_len;
  io_uring_sqe* sqe = ring_.Command(fd_, op);
  sqe->flags = sqe_flags;
  const bool wide = (ring_.get()->flags & IORING_SETUP_SQE128) != 0;
  std::memcpy(sqe->cmd, &command, wide ? sizeof(command) : 16);
  io_uring_submit(ring_.get());
}

int Control::Run(uint32_t op, const ControlArgs& args) {
  Send(op, args);
  return ring_.Finish().value_or(-ETIME);
}

int Control::RunInterrupted(uint32_t op, const ControlArgs& args) {
  int result = 0;
  do {
    Send(op, args);
    bool ended = false;
    // On its way to a worker it is not found.
    while (!ended) {
      io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
      io_uring_prep_cancel64(sqe, 0, 0);
      sqe->user_data = kInterruptUserData;
      io_uring_submit(ring_.get());
      std::optional<int> found;
      while (!found.has_value() || (*found != -ENOENT && !ended)) {
        io_uring_cqe* cqe = nullptr;
        if (io_uring_wait_cqe(ring_.get(), &cqe) != 0) continue;
        if (cqe->user_data == kInterruptUserData) {
          found = cqe->res;
        } else {
          result = cqe->res;
          ended = true;
        }
        io_uring_cqe_seen(ring_.get(), cqe);
      }
    }
    // It had not begun.
  } while (result == -ECANCELED);
  return result;
}

int Control::Add(ublksrv_ctrl_dev_info& info) {
  return Run(UBLK_U_CMD_ADD_DEV, {.dev_id = info.dev_id, .len = sizeof(info), .addr = &info});
}

int Control::Start(uint32_t id, pid_t pid) {
  return Run(UBLK_U_CMD_START_DEV, {.dev_id = id, .data = static_cast<uint64_t>(pid)});
}

int Control::Resize(uint32_t id, uint64_t sectors) {
  return Run(UBLK_U_CMD_UPDATE_SIZE, {.dev_id = id, .data = sectors});
}

int Control::EndRecovery(uint32_t id, pid_t pid) {
  return Run(UBLK_U_CMD_END_USER_RECOVERY, {.dev_id = id, .data = static_cast<uint64_t>(pid)});
}

int Control::Quiesce(uint32_t id, std::chrono::milliseconds limit) {
  return Run(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id, .data = static_cast<uint64_t>(limit.count())});
}

int Control::SetParams(uint32_t id, const ublk_params& params) {
  return Run(UBLK_U_CMD_SET_PARAMS, {.dev_id = id, .len = sizeof(params), .addr = &params});
}

int Control::GetParams(uint32_t id, ublk_params& params) {
  params.len = sizeof(params);
  if (params.types == 0) params.types = UBLK_PARAM_TYPE_BASIC;
  return Run(UBLK_U_CMD_GET_PARAMS, {.dev_id = id, .len = sizeof(params), .addr = &params});
}

int Control::GetInfo(uint32_t id, ublksrv_ctrl_dev_info& info) {
  return Run(UBLK_U_CMD_GET_DEV_INFO, {.dev_id = id, .len = sizeof(info), .addr = &info});
}

uint64_t Control::Features() {
  uint64_t features = 0;
  const int err = Run(UBLK_U_CMD_GET_FEATURES, {.len = UBLK_FEATURES_LEN, .addr = &features});
  return err == 0 ? features : 0;
}

int Control::State(uint32_t id) {
  ublksrv_ctrl_dev_info info = {};
  const int err = GetInfo(id, info);
  return err != 0 ? err : info.state;
}

ublksrv_ctrl_dev_info InfoOf(const Geometry& geometry, uint32_t id) {
  ublksrv_ctrl_dev_info info = {};
  info.nr_hw_queues = geometry.queues;
  info.queue_depth = geometry.depth;
  info.max_io_buf_bytes = geometry.max_io_bytes;
  info.dev_id = id;
  info.flags = geometry.flags;
  info.io_desc_size = geometry.desc_bytes;
  return info;
}

ublk_params ParamsOf(const Geometry& geometry) {
  ublk_params params = {};
  params.len = sizeof(params);
  params.types = UBLK_PARAM_TYPE_BASIC;
  params.basic.attrs = geometry.attrs;
  params.basic.logical_bs_shift = geometry.block_shift;
  params.basic.physical_bs_shift = std::max<uint8_t>(geometry.block_shift, 12);
  params.basic.io_min_shift = geometry.block_shift;
  params.basic.io_opt_shift = 12;
  params.basic.max_sectors = static_cast<uint32_t>(geometry.max_io_bytes / kSectorBytes);
  params.basic.dev_sectors = geometry.bytes / kSectorBytes;
  if (geometry.discard) {
    params.types |= UBLK_PARAM_TYPE_DISCARD;
    params.discard.discard_granularity = 1U << geometry.block_shift;
    params.discard.max_discard_sectors = 1 << 20;
    params.discard.max_write_zeroes_sectors = 1 << 20;
    params.discard.max_discard_segments = 1;
  }
  if (geometry.zone_bytes != 0) {
    params.types |= UBLK_PARAM_TYPE_ZONED;
    params.basic.chunk_sectors = static_cast<uint32_t>(geometry.zone_bytes / kSectorBytes);
    params.zoned.max_zone_append_sectors = params.basic.max_sectors;
  }
  return params;
}

Device::Device(Control& control, const Geometry& geometry)
    : control_(control), info_(InfoOf(geometry)), geometry_(geometry) {
  error_ = control_.Add(info_);
  if (error_ != 0) {
    deleted_ = true;
    return;
  }
  geometry_.queues = info_.nr_hw_queues;
  error_ = control_.SetParams(id(), ParamsOf(geometry));
}

int Device::Delete() {
  deleted_ = true;
  return control_.Delete(id());
}

Device::~Device() {
  if (!deleted_) Delete();
}

}  // namespace ublkd::driver_test
