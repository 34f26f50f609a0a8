// SPDX-License-Identifier: Apache-2.0
//
// A device with its server in this process and the disk opened, as its users have it: the kernel
// looks for partitions. Tests of what the server does with single requests take a LiveDevice.
#ifndef UBLKD_TESTS_VM_DRIVER_SERVED_H_
#define UBLKD_TESTS_VM_DRIVER_SERVED_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

class Served {
 public:
  Served(const Geometry& geometry, Handler handler, ServerOptions options = {},
         int open_flags = O_RDWR | O_DIRECT)
      : device(control, geometry) {
    EXPECT_EQ(device.error(), 0) << "ADD_DEV or SET_PARAMS failed";
    server = std::make_unique<Server>(device.id(), device.geometry(), std::move(handler), options);
    EXPECT_EQ(server->error(), 0) << "the char device can't be opened or mapped";
    EXPECT_EQ(control.Start(device.id(), getpid()), 0) << "START_DEV failed";
    fd = open(device.disk().c_str(), open_flags | O_CLOEXEC);
    EXPECT_GE(fd, 0) << "the disk can't be opened";
  }
  ~Served() {
    close(fd);
    EXPECT_EQ(control.Stop(device.id()), 0) << "STOP_DEV failed";
    server->Close();
  }

  Control control;
  Device device;
  std::unique_ptr<Server> server;
  int fd = -1;
};

// Everything that a server is told about, in the order in which it is told.
struct Seen {
  uint8_t op;
  uint32_t flags;
  uint64_t sector;
  uint32_t sectors;
};

class Recorder {
 public:
  Handler Wrap(Handler inner) {
    return [this, inner = std::move(inner)](const Request& request) {
      {
        const std::lock_guard lock(mutex_);
        seen_.push_back({request.op(), request.desc->op_flags & ~0xffU, request.desc->start_sector,
                         request.desc->nr_sectors});
      }
      return inner(request);
    };
  }
  std::vector<Seen> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(seen_, {});
  }
  std::optional<Seen> Find(uint8_t op) {
    const std::lock_guard lock(mutex_);
    for (const Seen& seen : seen_)
      if (seen.op == op) return seen;
    return std::nullopt;
  }

 private:
  std::mutex mutex_;
  std::vector<Seen> seen_;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_SERVED_H_
