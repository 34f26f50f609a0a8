// SPDX-License-Identifier: Apache-2.0
//
// Random commands from many threads for a few seconds. The promise is that the kernel stays
// healthy and that everything can be deleted afterwards; the harness reads the kernel log.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

constexpr std::chrono::seconds kFuzzTime{5};
constexpr uint32_t kIds = 6;

class Fuzzer {
 public:
  explicit Fuzzer(unsigned seed) : random_(seed) {}

  void Run(const std::atomic<bool>& stop) {
    while (!stop) {
      if (random_() % 4 == 0) {
        Io();
      } else {
        ControlCommand();
      }
    }
  }

 private:
  void ControlCommand() {
    // START_DEV is left out: it waits as it should.
    static constexpr uint32_t kOps[] = {UBLK_U_CMD_ADD_DEV,
                                        UBLK_U_CMD_DEL_DEV_ASYNC,
                                        UBLK_U_CMD_STOP_DEV,
                                        UBLK_U_CMD_SET_PARAMS,
                                        UBLK_U_CMD_GET_PARAMS,
                                        UBLK_U_CMD_GET_DEV_INFO,
                                        UBLK_U_CMD_GET_DEV_INFO2,
                                        UBLK_U_CMD_GET_QUEUE_AFFINITY,
                                        UBLK_U_CMD_GET_FEATURES,
                                        UBLK_U_CMD_TRY_STOP_DEV,
                                        UBLK_U_CMD_UPDATE_SIZE,
                                        UBLK_U_CMD_QUIESCE_DEV,
                                        UBLK_U_CMD_START_USER_RECOVERY,
                                        UBLK_U_CMD_END_USER_RECOVERY};
    alignas(8) unsigned char buffer[256];
    for (unsigned char& byte : buffer) byte = static_cast<unsigned char>(random_() % 64);
    const uint32_t id = random_() % kIds;
    ublksrv_ctrl_dev_info info = InfoOf({.queues = 2, .depth = 8}, id);
    if (random_() % 2 == 0) std::memcpy(buffer, &info, sizeof(info));
    ublk_params params = ParamsOf({});
    if (random_() % 4 == 0) std::memcpy(buffer, &params, sizeof(params));
    const uint32_t op = random_() % 10 == 0 ? random_() : kOps[random_() % std::size(kOps)];
    if (_IOC_NR(op) == UBLK_CMD_START_DEV || _IOC_NR(op) == UBLK_CMD_DEL_DEV) return;
    const uint16_t lens[] = {0, 8, 64, 112, 152, 256, static_cast<uint16_t>(random_() % 257)};
    control_.Run(op, {.dev_id = id,
                      .queue_id = random_() % 3 == 0 ? uint16_t(random_() % 4) : kNoQueue,
                      .len = lens[random_() % std::size(lens)],
                      .addr = random_() % 8 == 0 ? nullptr : buffer,
                      .data = random_() % 8,
                      .path_len = static_cast<uint16_t>(random_() % 4)});
  }

  void Io() {
    const int fd = open(CharPath(random_() % kIds).c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    {
      Ring ring(16, random_() % 2 == 0
                        ? 0U
                        : unsigned{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN});
      if (ring.error() != 0) {
        close(fd);
        return;
      }
      for (int i = 0; i < 12; ++i) {
        io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ + random_() % 3);
        sqe->flags = random_() % 4 == 0 ? IOSQE_ASYNC : 0;
        const ublksrv_io_cmd command = {.q_id = uint16_t(random_() % 3),
                                        .tag = uint16_t(random_() % 9),
                                        .result = int(random_()),
                                        .addr = random_() % 2 * 4096};
        std::memcpy(sqe->cmd, &command, sizeof(command));
      }
      io_uring_submit(ring.get());
      void* map = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
      if (map != MAP_FAILED) munmap(map, 4096);
      if (random_() % 2 == 0)
        close(fd);
      else
        leftover_ = fd;
    }
    if (leftover_ >= 0) close(leftover_);
    leftover_ = -1;
  }

  std::mt19937 random_;
  Control control_;
  int leftover_ = -1;
};

TEST(Fuzz, RandomCommandsFromManyThreads_R02) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    threads.emplace_back([&stop, seed] { Fuzzer(seed).Run(stop); });
  }
  std::this_thread::sleep_for(kFuzzTime);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  Control control;
  for (uint32_t id = 0; id < kIds; ++id) {
    const int err = control.Delete(id);
    EXPECT_TRUE(err == 0 || err == -ENODEV) << "device " << id << " can't be deleted: " << err;
  }
}

// The SQE's bytes change while the command runs: fields are read once.
TEST(Fuzz, FieldsThatChangeUnderTheKernelsHands_R02) {
  Control control;
  alignas(8) unsigned char shared[256] = {};
  std::atomic<bool> stop = false;
  std::thread flipper([&] {
    while (!stop) {
      for (unsigned char& byte : shared) {
        std::atomic_ref(byte).fetch_xor(0x41, std::memory_order_relaxed);
      }
    }
  });
  for (int i = 0; i < 2000; ++i) {
    control.Run(i % 2 == 0 ? UBLK_U_CMD_ADD_DEV : UBLK_U_CMD_SET_PARAMS,
                {.dev_id = i % 2 == 0 ? kAnyId : 0, .len = 152, .addr = shared});
  }
  stop = true;
  flipper.join();
  for (uint32_t id = 0; id < 64; ++id) control.Delete(id);
}

}  // namespace
}  // namespace ublkd::driver_test
