// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/request.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ublkd::ublk {
namespace {

/// Calls `transfer(done)`, which is a pread or pwrite of what is left, until all is done.
template <typename Transfer>
uring::Result TransferAll(size_t bytes, Transfer transfer) {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t count = transfer(done);
    if (count > 0) {
      done += static_cast<size_t>(count);
    } else if (count == 0 || errno != EINTR) {
      return uring::Result::Error(count == 0 ? EIO : errno);
    }
  }
  return uring::Result::Ok();
}

}  // namespace

uring::Result Request::Load(uint64_t from_bytes, std::span<std::byte> into) const {
  if (data_file == nullptr) {
    std::memcpy(into.data(), buffer.data + from_bytes, into.size());
    return uring::Result::Ok();
  }
  const uint64_t from = data_file->offset_bytes + from_bytes;
  return TransferAll(into.size(), [&](size_t done) {
    return pread(data_file->fd, into.data() + done, into.size() - done,
                 static_cast<off_t>(from + done));
  });
}

uring::Result Request::Store(uint64_t at_bytes, std::span<const std::byte> from) const {
  if (data_file == nullptr) {
    std::memcpy(buffer.data + at_bytes, from.data(), from.size());
    return uring::Result::Ok();
  }
  const uint64_t to = data_file->offset_bytes + at_bytes;
  return TransferAll(from.size(), [&](size_t done) {
    return pwrite(data_file->fd, from.data() + done, from.size() - done,
                  static_cast<off_t>(to + done));
  });
}

}  // namespace ublkd::ublk
