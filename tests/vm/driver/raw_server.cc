// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/raw_server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kWakeUserData = UINT64_MAX;
constexpr uint64_t kTryUserData = UINT64_MAX - 1;
constexpr size_t kPageBytes = 4096;
// Without a buffer for each tag.
constexpr uint64_t kOwnAccess = UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG;

size_t RoundToPages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

void PutIoCommand(io_uring_sqe* sqe, uint16_t queue, uint16_t tag, int result, uint64_t addr) {
  ublksrv_io_cmd command = {};
  command.q_id = queue;
  command.tag = tag;
  command.result = result;
  command.addr = addr;
  std::memcpy(sqe->cmd, &command, sizeof(command));
}

}  // namespace

bool Eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return condition();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

bool DriverIsOurs() { return PathExists("/sys/module/ublk_drv/version"); }

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

int Control::Add(ublksrv_ctrl_dev_info& info) {
  return Run(UBLK_U_CMD_ADD_DEV, {.dev_id = info.dev_id, .len = sizeof(info), .addr = &info});
}

int Control::Start(uint32_t id, pid_t pid) {
  return Run(UBLK_U_CMD_START_DEV, {.dev_id = id, .data = static_cast<uint64_t>(pid)});
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

Handler RamHandler(std::byte* memory) {
  return [memory](const Request& request) -> std::optional<int> {
    std::byte* place = memory + request.offset();
    switch (request.op()) {
      case UBLK_IO_OP_READ:
        std::memcpy(request.buffer, place, request.bytes());
        return static_cast<int>(request.bytes());
      case UBLK_IO_OP_WRITE:
        std::memcpy(place, request.buffer, request.bytes());
        return static_cast<int>(request.bytes());
      case UBLK_IO_OP_DISCARD:
      case UBLK_IO_OP_WRITE_ZEROES:
        std::memset(place, 0, request.bytes());
        return 0;
      case UBLK_IO_OP_FLUSH:
        return 0;
      default:
        return -EOPNOTSUPP;
    }
  };
}

SharedMemory::SharedMemory(size_t bytes)
    : bytes_(bytes),
      data_(static_cast<std::byte*>(
          mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}

SharedMemory::~SharedMemory() { munmap(data_, bytes_); }

QueueServer::QueueServer(int fd, uint16_t queue, const Geometry& geometry, Handler handler,
                         ServerOptions options)
    : fd_(fd),
      queue_(queue),
      geometry_(geometry),
      handler_(std::move(handler)),
      options_(options),
      wake_fd_(eventfd(0, EFD_CLOEXEC)) {
  const size_t bytes = RoundToPages(geometry.depth * sizeof(ublksrv_io_desc));
  const size_t stride = RoundToPages(UBLK_MAX_QUEUE_DEPTH * sizeof(ublksrv_io_desc));
  void* map = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd,
                   static_cast<off_t>(queue * stride));
  if (map == MAP_FAILED) {
    error_ = errno;
    return;
  }
  descs_ = static_cast<const ublksrv_io_desc*>(map);
  void* memory = mmap(nullptr, size_t{geometry.depth} * geometry.max_io_bytes,
                      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    error_ = errno;
    return;
  }
  buffers_ = static_cast<std::byte*>(memory);
}

QueueServer::~QueueServer() {
  ring_.reset();
  if (descs_ != nullptr) {
    munmap(const_cast<ublksrv_io_desc*>(descs_),
           RoundToPages(geometry_.depth * sizeof(ublksrv_io_desc)));
  }
  if (buffers_ != nullptr) munmap(buffers_, size_t{geometry_.depth} * geometry_.max_io_bytes);
  close(wake_fd_);
}

uint64_t QueueServer::Buffer(uint16_t tag) const {
  return reinterpret_cast<uintptr_t>(buffers_ + size_t{tag} * geometry_.max_io_bytes);
}

void QueueServer::Send(uint32_t op, uint16_t tag, int result, uint64_t commit_at) {
  const bool late_buffer =
      (geometry_.flags & UBLK_F_NEED_GET_DATA) != 0 && op == UBLK_U_IO_FETCH_REQ;
  const bool no_buffer = late_buffer || (geometry_.flags & kOwnAccess) != 0;
  io_uring_sqe* sqe = ring_->Command(fd_, op);
  sqe->flags = options_.sqe_flags;
  sqe->user_data = tag;
  PutIoCommand(sqe, queue_, tag, result, no_buffer ? commit_at : Buffer(tag));
  ++armed_;
}

void QueueServer::Commit(uint16_t tag, int result) {
  kept_.erase(std::remove(kept_.begin(), kept_.end(), tag), kept_.end());
  Send(UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, result);
}

int QueueServer::Try(uint32_t op, uint16_t queue, uint16_t tag, int result, uint64_t addr,
                     uint8_t sqe_flags) {
  io_uring_sqe* sqe = ring_->Command(fd_, op);
  sqe->flags = sqe_flags;
  sqe->user_data = kTryUserData;
  PutIoCommand(sqe, queue, tag, result, addr);
  tried_.reset();
  while (!tried_.has_value()) {
    io_uring_cqe* cqe = nullptr;
    io_uring_submit_and_wait(ring_->get(), 1);
    if (io_uring_peek_cqe(ring_->get(), &cqe) != 0) continue;
    const uint64_t user_data = cqe->user_data;
    const int res = cqe->res;
    io_uring_cqe_seen(ring_->get(), cqe);
    OnCqe(user_data, res);
  }
  return *tried_;
}

void QueueServer::WatchWake() {
  io_uring_sqe* sqe = io_uring_get_sqe(ring_->get());
  io_uring_prep_read(sqe, wake_fd_, &wake_value_, sizeof(wake_value_), 0);
  sqe->user_data = kWakeUserData;
}

void QueueServer::Post(std::function<void(QueueServer&)> action) {
  {
    const std::lock_guard lock(mutex_);
    actions_.push_back(std::move(action));
  }
  const uint64_t one = 1;
  if (write(wake_fd_, &one, sizeof(one)) < 0) std::abort();
}

void QueueServer::RunActions() {
  for (;;) {
    std::function<void(QueueServer&)> action;
    {
      const std::lock_guard lock(mutex_);
      if (actions_.empty()) return;
      action = std::move(actions_.front());
      actions_.pop_front();
    }
    action(*this);
  }
}

void QueueServer::OnRequest(uint16_t tag, int res) {
  if (res == UBLK_IO_RES_NEED_GET_DATA) {
    Send(UBLK_U_IO_NEED_GET_DATA, tag, 0);
    return;
  }
  if (res != UBLK_IO_RES_OK) return;
  uint64_t commit_at = 0;
  const Request request = {
      .queue = queue_,
      .tag = tag,
      .desc = &descs_[tag],
      .buffer = buffers_ + size_t{tag} * geometry_.max_io_bytes,
      .fd = fd_,
      .commit_at = &commit_at,
  };
  if (const std::optional<int> result = handler_(request)) {
    Send(UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, *result, commit_at);
  } else {
    kept_.push_back(tag);
  }
}

void QueueServer::OnCqe(uint64_t user_data, int res) {
  if (user_data == kWakeUserData) {
    WatchWake();
    RunActions();
  } else if (user_data == kTryUserData) {
    tried_ = res;
  } else {
    --armed_;
    OnRequest(static_cast<uint16_t>(user_data), res);
  }
}

void QueueServer::Run() {
  ring_ = std::make_unique<Ring>(std::max<unsigned>(geometry_.depth, 8) * 2, options_.ring_flags);
  if (ring_->error() == -EINVAL) ring_ = std::make_unique<Ring>(geometry_.depth * 2 + 8, 0);
  if (ring_->error() != 0) {
    error_ = -ring_->error();
    return;
  }
  const uint16_t fetch = options_.fetch_only != 0 ? options_.fetch_only : geometry_.depth;
  for (uint16_t tag = 0; tag < fetch; ++tag) Send(UBLK_U_IO_FETCH_REQ, tag, 0);
  WatchWake();
  // A kept request is a reason to stay: only its tag's thread can commit it.
  while (armed_ > 0 || !kept_.empty()) {
    io_uring_submit_and_wait(ring_->get(), 1);
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(ring_->get(), &cqe) == 0) {
      const uint64_t user_data = cqe->user_data;
      const int res = cqe->res;
      io_uring_cqe_seen(ring_->get(), cqe);
      OnCqe(user_data, res);
    }
  }
  ring_.reset();
}

Server::Server(uint32_t id, const Geometry& geometry, Handler handler, ServerOptions options)
    : fd_(open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC)) {
  if (fd_ < 0) {
    error_ = errno;
    return;
  }
  for (uint16_t queue = 0; queue < geometry.queues; ++queue) {
    queues_.push_back(std::make_unique<QueueServer>(fd_, queue, geometry, handler, options));
    if (queues_.back()->error() != 0) {
      error_ = queues_.back()->error();
      return;
    }
  }
  for (const auto& queue : queues_) {
    threads_.emplace_back([&queue] { queue->Run(); });
  }
}

Server::~Server() { Close(); }

void Server::InThread(uint16_t queue, const std::function<void(QueueServer&)>& action) {
  std::mutex mutex;
  std::condition_variable done;
  bool ran = false;
  queues_[queue]->Post([&](QueueServer& server) {
    action(server);
    const std::lock_guard lock(mutex);
    ran = true;
    done.notify_one();
  });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return ran; });
}

void Server::Join() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Server::Close() {
  Join();
  queues_.clear();
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
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

ServerProcess::ServerProcess(const std::function<void()>& body) {
  pid_ = fork();
  if (pid_ == 0) {
    body();
    _exit(0);
  }
}

ServerProcess::ServerProcess(uint32_t id, const Geometry& geometry, Handler handler,
                             ServerOptions options)
    : ServerProcess([&] {
        Server server(id, geometry, std::move(handler), options);
        if (server.error() != 0) _exit(server.error());
        server.Close();
      }) {}

ServerProcess::~ServerProcess() {
  if (pid_ > 0) Kill();
}

void ServerProcess::Kill(int signal) {
  if (pid_ <= 0) return;
  kill(pid_, signal);
  Wait();
}

std::optional<int> ServerProcess::Wait(std::chrono::milliseconds limit) {
  int status = 0;
  if (pid_ <= 0) return std::nullopt;
  const bool ended = Eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, limit);
  if (!ended) return std::nullopt;
  pid_ = -1;
  return status;
}

}  // namespace ublkd::driver_test
