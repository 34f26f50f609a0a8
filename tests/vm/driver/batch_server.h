// SPDX-License-Identifier: Apache-2.0
//
// Servers of devices with UBLK_F_BATCH_IO.
#ifndef UBLKD_TESTS_VM_DRIVER_BATCH_SERVER_H_
#define UBLKD_TESTS_VM_DRIVER_BATCH_SERVER_H_

#include <liburing.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

inline constexpr uint32_t kMultishotFlag = 1U << 1;  // IORING_URING_CMD_MULTISHOT
inline constexpr uint16_t kBufferGroup = 7;
inline constexpr unsigned kFetchBuffers = 4;  // a power of two

// An element of PREP and COMMIT with a buffer address, or with the sector of a ZONE_APPEND.
struct Element {
  ublk_elem_header head = {};
  uint64_t addr = 0;
};
static_assert(sizeof(Element) == 16);

// One thread's ring. Everything is called from that thread.
class BatchRing {
 public:
  explicit BatchRing(int fd, size_t fetch_bytes = 64);
  ~BatchRing();
  BatchRing(const BatchRing&) = delete;
  BatchRing& operator=(const BatchRing&) = delete;

  int error() const { return error_; }
  Ring& ring() { return ring_; }
  io_uring* get() { return ring_.get(); }

  void Provide(uint16_t buffer);
  void Fetch(uint16_t queue, uint64_t user_data);
  // Tags of an answer to Fetch(); the buffer is provided again.
  std::vector<uint16_t> Tags(const io_uring_cqe& cqe);
  // Sends a PREP or COMMIT that is over when this returns. Only while no fetch can be answered, or
  // for what `others` does with answers that come first.
  int Run(uint32_t op, uint16_t queue, const std::vector<Element>& elements,
          const std::function<void(const io_uring_cqe&)>& others = nullptr);

  // Likewise, for elements without addresses and with flags.
  template <typename AnyElement>
  int RunWith(uint32_t op, uint16_t queue, uint16_t flags, const std::vector<AnyElement>& elements,
              const std::function<void(const io_uring_cqe&)>& others = nullptr) {
    io_uring_sqe* sqe = ring_.Command(fd_, op);
    sqe->addr = reinterpret_cast<uintptr_t>(elements.data());
    const ublk_batch_io batch = {.q_id = queue,
                                 .flags = flags,
                                 .nr_elem = static_cast<uint16_t>(elements.size()),
                                 .elem_bytes = sizeof(AnyElement),
                                 .reserved = 0,
                                 .reserved2 = 0};
    std::memcpy(sqe->cmd, &batch, sizeof(batch));
    return Await(sqe, others);
  }

  // Sends anything else that has one answer.
  int Await(io_uring_sqe* sqe, const std::function<void(const io_uring_cqe&)>& others = nullptr);

 private:
  const int fd_;
  const size_t fetch_bytes_;
  std::vector<std::byte> fetched_;
  Ring ring_;
  io_uring_buf_ring* buffers_ = nullptr;
  int error_ = 0;
};

// Serves with `threads` threads a queue, each of which fetches and commits. What the handler keeps
// fails.
class BatchServer {
 public:
  BatchServer(uint32_t id, const Geometry& geometry, Handler handler, unsigned threads = 1);
  ~BatchServer() { Close(); }
  BatchServer(const BatchServer&) = delete;
  BatchServer& operator=(const BatchServer&) = delete;

  int error() const { return error_; }
  int fd() const { return fd_; }
  // Tags that were delivered, and in how many answers.
  uint64_t delivered() const { return delivered_; }
  uint64_t answers() const { return answers_; }
  // PREPs and COMMITs that were not done, or in part.
  uint64_t refused() const { return refused_; }

  // Joins the threads, which end by ABORT.
  void Close();

 private:
  std::byte* Buffer(uint16_t queue, uint16_t tag) const;
  Element ElementOf(uint16_t queue, uint16_t tag) const;
  // As BatchRing::Run(), with elements as this device takes them; true if all were done.
  bool Send(BatchRing& ring, uint32_t op, uint16_t queue, const std::vector<Element>& elements,
            const std::function<void(const io_uring_cqe&)>& others = nullptr) const;
  void Prepare(BatchRing& ring, uint16_t queue);
  void Serve(uint16_t queue, bool prepares);

  const Geometry geometry_;
  const Handler handler_;
  int error_ = 0;
  int fd_ = -1;
  std::byte* buffers_ = nullptr;
  std::atomic<uint64_t> delivered_ = 0;
  std::atomic<uint64_t> answers_ = 0;
  std::atomic<uint64_t> refused_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_BATCH_SERVER_H_
