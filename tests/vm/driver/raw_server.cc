// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/raw_server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kWakeUserData = UINT64_MAX;
constexpr size_t kPageBytes = 4096;
// Without a buffer for each tag.
constexpr uint64_t kOwnAccess = UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG;

size_t RoundToPages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

size_t DescBytes(const Geometry& geometry) {
  return geometry.desc_bytes != 0 ? geometry.desc_bytes : sizeof(ublksrv_io_desc);
}

// Of the descriptors of a queue with so many tags.
size_t MapBytes(const Geometry& geometry, size_t tags) {
  return RoundToPages(tags * DescBytes(geometry));
}

void PutIoCommand(io_uring_sqe* sqe, uint16_t queue, uint16_t tag, int result, uint64_t addr) {
  ublksrv_io_cmd command = {};
  command.q_id = queue;
  command.tag = tag;
  command.result = result;
  command.addr = addr;
  std::memcpy(sqe->cmd, &command, sizeof(command));
}

}  // namespace

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

QueueServer::QueueServer(int fd, uint16_t queue, uint16_t part, const Geometry& geometry,
                         Handler handler, ServerOptions options)
    : fd_(fd),
      queue_(queue),
      part_(part),
      geometry_(geometry),
      handler_(std::move(handler)),
      options_(options),
      wake_fd_(eventfd(0, EFD_CLOEXEC)) {
  void* map =
      mmap(nullptr, MapBytes(geometry, geometry.depth), PROT_READ, MAP_SHARED | MAP_POPULATE, fd,
           static_cast<off_t>(queue * MapBytes(geometry, UBLK_MAX_QUEUE_DEPTH)));
  if (map == MAP_FAILED) {
    error_ = errno;
    return;
  }
  descs_ = static_cast<const std::byte*>(map);
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
    munmap(const_cast<std::byte*>(descs_), MapBytes(geometry_, geometry_.depth));
  }
  if (buffers_ != nullptr) munmap(buffers_, size_t{geometry_.depth} * geometry_.max_io_bytes);
  close(wake_fd_);
}

uint64_t QueueServer::Buffer(uint16_t tag) const {
  return reinterpret_cast<uintptr_t>(buffers_ + size_t{tag} * geometry_.max_io_bytes);
}

const ublksrv_io_desc& QueueServer::Desc(uint16_t tag) const {
  return *reinterpret_cast<const ublksrv_io_desc*>(descs_ + tag * DescBytes(geometry_));
}

void QueueServer::Send(uint32_t op, uint16_t tag, int result, uint64_t commit_at) {
  const bool late_buffer =
      (geometry_.flags & UBLK_F_NEED_GET_DATA) != 0 && op == UBLK_U_IO_FETCH_REQ;
  const bool no_buffer = late_buffer || (geometry_.flags & kOwnAccess) != 0;
  io_uring_sqe* sqe = ring_->Command(fd_, op);
  sqe->flags = options_.sqe_flags;
  sqe->user_data = tag;
  if (options_.sqe_addr != nullptr) sqe->addr = options_.sqe_addr(tag);
  PutIoCommand(sqe, queue_, tag, result, no_buffer ? commit_at : Buffer(tag));
  ++armed_;
}

void QueueServer::Forget(uint16_t tag) {
  kept_.erase(std::remove(kept_.begin(), kept_.end(), tag), kept_.end());
}

void QueueServer::Commit(uint16_t tag, int result) {
  Forget(tag);
  Send(UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, result);
}

int QueueServer::Try(uint32_t op, uint16_t queue, uint16_t tag, int result, uint64_t addr,
                     uint8_t sqe_flags, uint64_t sqe_addr) {
  io_uring_sqe* sqe = ring_->Command(fd_, op);
  sqe->flags = sqe_flags;
  sqe->addr = sqe_addr;
  PutIoCommand(sqe, queue, tag, result, addr);
  return Await(sqe);
}

int QueueServer::Await(io_uring_sqe* sqe) {
  std::optional<int> awaited;
  sqe->user_data = reinterpret_cast<uintptr_t>(&awaited);
  while (!awaited.has_value()) {
    io_uring_cqe* cqe = nullptr;
    io_uring_submit_and_wait(ring_->get(), 1);
    if (io_uring_peek_cqe(ring_->get(), &cqe) != 0) continue;
    const uint64_t user_data = cqe->user_data;
    const int res = cqe->res;
    io_uring_cqe_seen(ring_->get(), cqe);
    OnCqe(user_data, res);
  }
  return *awaited;
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
      .desc = &Desc(tag),
      .buffer = buffers_ + size_t{tag} * geometry_.max_io_bytes,
      .fd = fd_,
      .commit_at = &commit_at,
      .server = this,
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
  } else if (user_data > UINT16_MAX) {
    *reinterpret_cast<std::optional<int>*>(user_data) = res;
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
  if (options_.fixed_buffers != 0) {
    error_ = -io_uring_register_buffers_sparse(ring_->get(), options_.fixed_buffers);
    if (error_ != 0) return;
  }
  const uint16_t fetch = options_.fetch_only != 0 ? options_.fetch_only : geometry_.depth;
  for (uint16_t tag = part_; tag < fetch; tag += options_.threads_per_queue) {
    Send(UBLK_U_IO_FETCH_REQ, tag, 0);
  }
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
    : fd_(open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC)),
      threads_per_queue_(options.threads_per_queue) {
  if (fd_ < 0) {
    error_ = errno;
    return;
  }
  for (uint16_t i = 0; i < geometry.queues * threads_per_queue_; ++i) {
    queues_.push_back(std::make_unique<QueueServer>(
        fd_, i / threads_per_queue_, i % threads_per_queue_, geometry, handler, options));
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

void Server::InThread(uint16_t queue, const std::function<void(QueueServer&)>& action,
                      uint16_t part) {
  std::mutex mutex;
  std::condition_variable done;
  bool ran = false;
  const auto run = [&](QueueServer& server) {
    action(server);
    const std::lock_guard lock(mutex);
    ran = true;
    done.notify_one();
  };
  Post(queue, run, part);
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return ran; });
}

void Server::Post(uint16_t queue, std::function<void(QueueServer&)> action, uint16_t part) {
  queues_[size_t{queue} * threads_per_queue_ + part]->Post(std::move(action));
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
