// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/user_copy.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tests/vm/driver/live_device.h"

namespace ublkd::driver_test {

off_t UserCopyAt(uint32_t queue, uint32_t tag, uint64_t byte) {
  return static_cast<off_t>(UBLKSRV_IO_BUF_OFFSET + (uint64_t{queue} << UBLK_QID_OFF) +
                            (uint64_t{tag} << UBLK_TAG_OFF) + byte);
}

Handler UserCopyRam(std::byte* memory) {
  return [memory](const Request& request) -> std::optional<int> {
    std::byte* place = memory + request.offset();
    const off_t at = UserCopyAt(request.queue, request.tag);
    ssize_t done;
    switch (request.op()) {
      case UBLK_IO_OP_READ:
        done = pwrite(request.fd, place, request.bytes(), at);
        break;
      case UBLK_IO_OP_WRITE:
        done = pread(request.fd, place, request.bytes(), at);
        break;
      default:
        return RamHandler(memory)(request);
    }
    return done < 0 ? -errno : static_cast<int>(done);
  };
}

Copiers::Copiers(int chan, Way way, std::byte value) {
  for (int i = 0; i < 2; ++i) {
    threads_.emplace_back([=, this] { Run(chan, way, value); });
  }
}

void Copiers::Stop() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Copiers::Run(int chan, Way way, std::byte value) {
  const off_t at = UserCopyAt(0, 0);
  const PageBuffer page(kPage);
  while (!stop_) {
    std::memset(page.data(), static_cast<int>(value), kPage);
    const int n = way == Way::kFromRequest ? ReadAt(chan, page.data(), kPage, at)
                                           : WriteAt(chan, page.data(), kPage, at);
    if (n == int{kPage}) {
      ++copied_;
      const std::byte first = page.data()[0];
      if (way == Way::kFromRequest && (first == value || !HoldsOnly(page.data(), kPage, first))) {
        ++torn_;
      }
    } else if (n != -EINVAL && n != -EACCES) {
      ++strange_;
    }
  }
}

}  // namespace ublkd::driver_test
