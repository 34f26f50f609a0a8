// SPDX-License-Identifier: Apache-2.0
//
// Servers of devices with UBLK_F_SUPPORT_ZERO_COPY and UBLK_F_AUTO_BUF_REG.
#ifndef UBLKD_TESTS_VM_DRIVER_ZERO_COPY_H_
#define UBLKD_TESTS_VM_DRIVER_ZERO_COPY_H_

#include <liburing.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

// For registered buffers, in every ring.
inline constexpr unsigned kPlaces = 64;

// The address field of the SQE of a FETCH or COMMIT.
uint64_t AutoAddr(uint16_t index, uint8_t flags = 0);

// A file that holds the data of the disk, and is mapped.
class BackingFile {
 public:
  explicit BackingFile(size_t bytes);
  ~BackingFile();
  BackingFile(const BackingFile&) = delete;
  BackingFile& operator=(const BackingFile&) = delete;
  int fd() const { return fd_; }
  std::byte* data() const { return data_; }

 private:
  const size_t bytes_;
  const int fd_;
  std::byte* data_;
};

// The pages of a request at a place of the server's ring; 0 or -errno.
int RegisterBuffer(const Request& request, uint64_t index);
int UnregisterBuffer(const Request& request, uint64_t index);

bool HasData(const Request& request);

// The SQE of a transfer between a file and a registered buffer, as the request wants it.
void PutTransfer(io_uring_sqe* sqe, uint8_t op, int file, size_t bytes, uint64_t offset,
                 unsigned index);

// Registers, transfers and unregisters.
Handler ZeroCopyFile(int file);

// Finds the buffer of a tag registered, unless it is told that it is not.
Handler AutoFile(int file, std::atomic<int>* fallbacks = nullptr);

// A ring of a thread that serves nothing.
class OtherRing {
 public:
  OtherRing();
  // An I/O command of queue 0, and its result.
  int Command(int chan, uint32_t op, uint16_t tag, uint64_t index);
  // Of the first page of the file.
  int TransferPage(uint8_t op, int file, unsigned index);

 private:
  Ring ring_;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_ZERO_COPY_H_
