// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/char_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/base/status.h"
#include "daemon/ublk/abi.h"

namespace ublkd::ublk {
namespace {

constexpr absl::Duration kOpenTimeout = absl::Seconds(3);
constexpr absl::Duration kOpenPause = absl::Milliseconds(2);

size_t RoundUpToPage(size_t bytes) {
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}

}  // namespace

absl::StatusOr<std::shared_ptr<CharDevice>> CharDevice::Open(uint32_t device_id) {
  const std::string path = absl::StrCat("/dev/ublkc", device_id);
  const absl::Time deadline = absl::Now() + kOpenTimeout;
  while (true) {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (fd.valid()) return std::shared_ptr<CharDevice>(new CharDevice(std::move(fd)));
    const int error = errno;
    // The node comes from devtmpfs a moment after the device, and udev looks into every new one.
    const bool may_heal = error == ENOENT || error == ENXIO || error == EBUSY || error == EACCES;
    if (!may_heal || absl::Now() > deadline) {
      if (error == ENOENT) {
        return absl::FailedPreconditionError(
            absl::StrCat(path, ": there is no such node; mount the host's /dev (devtmpfs) here"));
      }
      return ErrnoStatus(error, absl::StrCat("open ", path));
    }
    absl::SleepFor(kOpenPause);
  }
}

absl::StatusOr<DescriptorMap> DescriptorMap::Create(const CharDevice& device, uint16_t queue,
                                                    uint16_t depth) {
  DescriptorMap map;
  map.bytes_ = RoundUpToPage(depth * sizeof(ublksrv_io_desc));
  // Queues lie as far apart as the deepest one needs, whatever the depth of these.
  const size_t stride_bytes = RoundUpToPage(UBLK_MAX_QUEUE_DEPTH * sizeof(ublksrv_io_desc));
  const auto offset = static_cast<off_t>(UBLKSRV_CMD_BUF_OFFSET + queue * stride_bytes);
  void* memory =
      mmap(nullptr, map.bytes_, PROT_READ, MAP_SHARED | MAP_POPULATE, device.fd(), offset);
  if (memory == MAP_FAILED) {
    return ErrnoStatus(errno, absl::StrCat("map the descriptors of queue ", queue));
  }
  map.descriptors_ = static_cast<const ublksrv_io_desc*>(memory);
  // A forked child must not keep the device busy.
  madvise(memory, map.bytes_, MADV_DONTFORK);
  return map;
}

DescriptorMap::DescriptorMap(DescriptorMap&& other) noexcept { *this = std::move(other); }

DescriptorMap& DescriptorMap::operator=(DescriptorMap&& other) noexcept {
  std::swap(descriptors_, other.descriptors_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DescriptorMap::~DescriptorMap() {
  if (descriptors_ != nullptr) munmap(const_cast<ublksrv_io_desc*>(descriptors_), bytes_);
}

const ublksrv_io_desc* DescriptorMap::operator[](uint16_t tag) const { return descriptors_ + tag; }

}  // namespace ublkd::ublk
