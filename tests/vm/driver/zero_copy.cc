// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/zero_copy.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ublkd::driver_test {

uint64_t AutoAddr(uint16_t index, uint8_t flags) {
  const ublk_auto_buf_reg reg = {.index = index, .flags = flags, .reserved0 = 0, .reserved1 = 0};
  return ublk_auto_buf_reg_to_sqe_addr(&reg);
}

BackingFile::BackingFile(size_t bytes) : bytes_(bytes), fd_(memfd_create("backing", MFD_CLOEXEC)) {
  EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(bytes)), 0);
  data_ = static_cast<std::byte*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
}

BackingFile::~BackingFile() {
  munmap(data_, bytes_);
  close(fd_);
}

int RegisterBuffer(const Request& request, uint64_t index) {
  return request.server->Try(UBLK_U_IO_REGISTER_IO_BUF, request.queue, request.tag, 0, index);
}

int UnregisterBuffer(const Request& request, uint64_t index) {
  return request.server->Try(UBLK_U_IO_UNREGISTER_IO_BUF, request.queue, request.tag, 0, index);
}

void PutTransfer(io_uring_sqe* sqe, uint8_t op, int file, size_t bytes, uint64_t offset,
                 unsigned index) {
  if (op == UBLK_IO_OP_READ) {
    io_uring_prep_read_fixed(sqe, file, nullptr, static_cast<unsigned>(bytes), offset,
                             static_cast<int>(index));
  } else {
    io_uring_prep_write_fixed(sqe, file, nullptr, static_cast<unsigned>(bytes), offset,
                              static_cast<int>(index));
  }
}

bool HasData(const Request& request) {
  return request.op() == UBLK_IO_OP_READ || request.op() == UBLK_IO_OP_WRITE;
}

namespace {

// Moves the data of a request whose buffer is registered.
int Transfer(const Request& request, int file, unsigned index) {
  io_uring_sqe* sqe = io_uring_get_sqe(request.server->ring().get());
  PutTransfer(sqe, request.op(), file, request.bytes(), request.offset(), index);
  return request.server->Await(sqe);
}

}  // namespace

Handler ZeroCopyFile(int file) {
  return [file](const Request& request) -> std::optional<int> {
    if (!HasData(request)) return 0;
    const int err = RegisterBuffer(request, request.tag);
    if (err != 0) return err;
    const int done = Transfer(request, file, request.tag);
    const int end = UnregisterBuffer(request, request.tag);
    return end != 0 ? end : done;
  };
}

Handler AutoFile(int file, std::atomic<int>* fallbacks) {
  return [=](const Request& request) -> std::optional<int> {
    if (!HasData(request)) return 0;
    if ((request.desc->op_flags & UBLK_IO_F_NEED_REG_BUF) != 0) {
      if (fallbacks != nullptr) ++*fallbacks;
      return ZeroCopyFile(file)(request);
    }
    return Transfer(request, file, request.tag);
  };
}

OtherRing::OtherRing() : ring_(8, 0) {
  EXPECT_EQ(io_uring_register_buffers_sparse(ring_.get(), kPlaces), 0);
}

int OtherRing::Command(int chan, uint32_t op, uint16_t tag, uint64_t index) {
  io_uring_sqe* sqe = ring_.Command(chan, op);
  const ublksrv_io_cmd command = {.q_id = 0, .tag = tag, .result = 0, .addr = index};
  std::memcpy(sqe->cmd, &command, sizeof(command));
  return ring_.Finish().value_or(-ETIME);
}

int OtherRing::TransferPage(uint8_t op, int file, unsigned index) {
  PutTransfer(io_uring_get_sqe(ring_.get()), op, file, 4096, 0, index);
  return ring_.Finish().value_or(-ETIME);
}

}  // namespace ublkd::driver_test
