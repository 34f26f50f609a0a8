// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/batch_server.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>

namespace ublkd::driver_test {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr unsigned kEntries = 64;

io_uring_cqe CopyOf(const io_uring_cqe* cqe) {
  return {.user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags};
}

}  // namespace

BatchRing::BatchRing(int fd, size_t fetch_bytes)
    : fd_(fd),
      fetch_bytes_(fetch_bytes),
      fetched_(kFetchBuffers * fetch_bytes),
      ring_(kEntries, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN) {
  void* memory = mmap(nullptr, kFetchBuffers * sizeof(io_uring_buf), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  buffers_ = static_cast<io_uring_buf_ring*>(memory);
  io_uring_buf_reg reg = {};
  reg.ring_addr = reinterpret_cast<uintptr_t>(memory);
  reg.ring_entries = kFetchBuffers;
  reg.bgid = kBufferGroup;
  error_ = io_uring_register_buf_ring(ring_.get(), &reg, 0);
  io_uring_buf_ring_init(buffers_);
}

BatchRing::~BatchRing() { munmap(buffers_, kFetchBuffers * sizeof(io_uring_buf)); }

void BatchRing::Provide(uint16_t buffer) {
  io_uring_buf_ring_add(buffers_, fetched_.data() + buffer * fetch_bytes_,
                        static_cast<unsigned>(fetch_bytes_), buffer,
                        io_uring_buf_ring_mask(kFetchBuffers), 0);
  io_uring_buf_ring_advance(buffers_, 1);
}

void BatchRing::Fetch(uint16_t queue, uint64_t user_data) {
  io_uring_sqe* sqe = ring_.Command(fd_, UBLK_U_IO_FETCH_IO_CMDS);
  sqe->rw_flags = kMultishotFlag;
  sqe->flags = IOSQE_BUFFER_SELECT;
  sqe->buf_group = kBufferGroup;
  sqe->user_data = user_data;
  const ublk_batch_io batch = {.q_id = queue,
                               .flags = 0,
                               .nr_elem = 0,
                               .elem_bytes = sizeof(uint16_t),
                               .reserved = 0,
                               .reserved2 = 0};
  std::memcpy(sqe->cmd, &batch, sizeof(batch));
}

std::vector<uint16_t> BatchRing::Tags(const io_uring_cqe& cqe) {
  const auto buffer = static_cast<uint16_t>(cqe.flags >> IORING_CQE_BUFFER_SHIFT);
  std::vector<uint16_t> tags(static_cast<size_t>(cqe.res) / sizeof(uint16_t));
  std::memcpy(tags.data(), fetched_.data() + buffer * fetch_bytes_, static_cast<size_t>(cqe.res));
  Provide(buffer);
  return tags;
}

int BatchRing::Run(uint32_t op, uint16_t queue, const std::vector<Element>& elements,
                   const std::function<void(const io_uring_cqe&)>& others) {
  return RunWith(op, queue, UBLK_BATCH_F_HAS_BUF_ADDR, elements, others);
}

int BatchRing::Await(io_uring_sqe* sqe, const std::function<void(const io_uring_cqe&)>& others) {
  constexpr uint64_t kRunUserData = UINT64_MAX;
  sqe->user_data = kRunUserData;
  for (;;) {
    io_uring_submit_and_wait(ring_.get(), 1);
    io_uring_cqe* cqe = nullptr;
    if (io_uring_peek_cqe(ring_.get(), &cqe) != 0) continue;
    const io_uring_cqe copy = CopyOf(cqe);
    io_uring_cqe_seen(ring_.get(), cqe);
    if (copy.user_data == kRunUserData) return copy.res;
    if (others) others(copy);
  }
}

BatchServer::BatchServer(uint32_t id, const Geometry& geometry, Handler handler, unsigned threads)
    : geometry_(geometry), handler_(std::move(handler)) {
  fd_ = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
  if (fd_ < 0) {
    error_ = errno;
    return;
  }
  const size_t buffer_bytes = size_t{geometry.queues} * geometry.depth * geometry.max_io_bytes;
  buffers_ = static_cast<std::byte*>(mmap(nullptr, buffer_bytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (uint16_t queue = 0; queue < geometry.queues; ++queue) {
    for (unsigned i = 0; i < threads; ++i) {
      threads_.emplace_back([this, queue, first = i == 0] { Serve(queue, first); });
    }
  }
}

void BatchServer::Close() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::byte* BatchServer::Buffer(uint16_t queue, uint16_t tag) const {
  return buffers_ + (size_t{queue} * geometry_.depth + tag) * geometry_.max_io_bytes;
}

Element BatchServer::ElementOf(uint16_t queue, uint16_t tag) const {
  Element element = {.head = {.tag = tag, .buf_index = 0, .result = 0}};
  if ((geometry_.flags & UBLK_F_USER_COPY) == 0) {
    element.addr = reinterpret_cast<uintptr_t>(Buffer(queue, tag));
  }
  return element;
}

bool BatchServer::Send(BatchRing& ring, uint32_t op, uint16_t queue,
                       const std::vector<Element>& elements,
                       const std::function<void(const io_uring_cqe&)>& others) const {
  const auto is_done = [&](int result, size_t element_bytes) {
    const bool commits = op == UBLK_U_IO_COMMIT_IO_CMDS;
    return result == (commits ? static_cast<int>(elements.size() * element_bytes) : 0);
  };
  const bool copies_itself = (geometry_.flags & UBLK_F_USER_COPY) != 0;
  if (copies_itself && (geometry_.flags & UBLK_F_ZONED) == 0) {
    std::vector<ublk_elem_header> heads;
    heads.reserve(elements.size());
    for (const Element& element : elements) heads.push_back(element.head);
    return is_done(ring.RunWith(op, queue, 0, heads, others), sizeof(ublk_elem_header));
  }
  const uint16_t flag = copies_itself ? UBLK_BATCH_F_HAS_ZONE_LBA : UBLK_BATCH_F_HAS_BUF_ADDR;
  return is_done(ring.RunWith(op, queue, flag, elements, others), sizeof(Element));
}

void BatchServer::Prepare(BatchRing& ring, uint16_t queue) {
  std::vector<Element> all;
  for (uint16_t tag = 0; tag < geometry_.depth; ++tag) all.push_back(ElementOf(queue, tag));
  if (!Send(ring, UBLK_U_IO_PREP_IO_CMDS, queue, all)) ++refused_;
}

void BatchServer::Serve(uint16_t queue, bool prepares) {
  const size_t stride = UBLK_MAX_QUEUE_DEPTH * sizeof(ublksrv_io_desc);
  const size_t map_bytes =
      (geometry_.depth * sizeof(ublksrv_io_desc) + kPageBytes - 1) / kPageBytes * kPageBytes;
  void* map = mmap(nullptr, map_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd_,
                   static_cast<off_t>(queue * stride));
  if (map == MAP_FAILED) return;
  const auto* descs = static_cast<const ublksrv_io_desc*>(map);
  BatchRing ring(fd_);
  for (uint16_t i = 0; i < kFetchBuffers; ++i) ring.Provide(i);
  if (prepares) Prepare(ring, queue);
  bool over = false;
  std::deque<uint16_t> waiting;
  const auto on_fetch = [&](const io_uring_cqe& cqe) {
    if (cqe.res > 0) {
      ++answers_;
      for (const uint16_t tag : ring.Tags(cqe)) waiting.push_back(tag);
    }
    if ((cqe.flags & IORING_CQE_F_MORE) != 0) return;
    if (cqe.res == -ENOBUFS || cqe.res > 0) {
      ring.Fetch(queue, 0);
    } else {
      over = true;
    }
  };
  ring.Fetch(queue, 0);
  while (!over || !waiting.empty()) {
    if (waiting.empty()) {
      io_uring_submit_and_wait(ring.get(), 1);
      io_uring_cqe* cqe = nullptr;
      while (io_uring_peek_cqe(ring.get(), &cqe) == 0) {
        const io_uring_cqe copy = CopyOf(cqe);
        io_uring_cqe_seen(ring.get(), cqe);
        on_fetch(copy);
      }
      continue;
    }
    std::vector<Element> done;
    for (const uint16_t tag : waiting) {
      Element element = ElementOf(queue, tag);
      const Request request = {.queue = queue,
                               .tag = tag,
                               .desc = &descs[tag],
                               .buffer = Buffer(queue, tag),
                               .fd = fd_,
                               .commit_at = &element.addr};
      element.head.result = handler_(request).value_or(-EIO);
      done.push_back(element);
    }
    delivered_ += waiting.size();
    waiting.clear();
    if (!Send(ring, UBLK_U_IO_COMMIT_IO_CMDS, queue, done, on_fetch)) ++refused_;
  }
  munmap(map, map_bytes);
}

}  // namespace ublkd::driver_test
