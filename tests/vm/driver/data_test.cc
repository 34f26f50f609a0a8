// SPDX-License-Identifier: Apache-2.0
//
// What is written is what is read.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/served.h"

namespace ublkd::driver_test {
namespace {

struct Shape {
  uint16_t queues;
  uint8_t block_shift;
  uint64_t flags;
  uint8_t sqe_flags = 0;
  unsigned ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  uint16_t threads_per_queue = 1;
};

class DataIntegrity : public testing::TestWithParam<Shape> {};

// Random writes and reads of many sizes and places against a model, each thread in its own part.
TEST_P(DataIntegrity, RandomWritesAreReadBack_R32_R36_R43) {
  const Shape shape = GetParam();
  Geometry geometry = {.queues = shape.queues, .depth = 32, .flags = shape.flags};
  geometry.block_shift = shape.block_shift;
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()),
                {.ring_flags = shape.ring_flags,
                 .sqe_flags = shape.sqe_flags,
                 .threads_per_queue = shape.threads_per_queue});

  constexpr int kThreads = 4;
  constexpr int kRounds = 300;
  constexpr size_t kMaxIo = 1 << 20;  // larger than a request, so that it is split
  const size_t part = geometry.bytes / kThreads;
  const size_t block = size_t{1} << shape.block_shift;
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t + 1));
      std::vector<std::byte> model(part);
      PageBuffer buffer(kMaxIo);
      for (int round = 0; round < kRounds; ++round) {
        const size_t max_blocks = (round % 8 == 0 ? kMaxIo : 32768) / block;
        const size_t bytes = (1 + random() % max_blocks) * block;
        const size_t at = random() % ((part - bytes) / block + 1) * block;
        const auto offset = static_cast<off_t>(size_t(t) * part + at);
        if (random() % 2 == 0) {
          for (size_t i = 0; i < bytes; i += 4) {
            const uint32_t word = random();
            std::memcpy(buffer.data() + i, &word, 4);
          }
          if (pwrite(served.fd, buffer.data(), bytes, offset) != static_cast<ssize_t>(bytes)) {
            ++wrong;
          }
          std::memcpy(&model[at], buffer.data(), bytes);
        } else {
          std::memset(buffer.data(), 0xa5, bytes);
          if (pread(served.fd, buffer.data(), bytes, offset) != static_cast<ssize_t>(bytes) ||
              std::memcmp(&model[at], buffer.data(), bytes) != 0) {
            ++wrong;
          }
        }
      }
      if (std::memcmp(ram.data() + size_t(t) * part, model.data(), part) != 0) ++wrong;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0) << "I/Os that failed or returned other data than was written";
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DataIntegrity,
    testing::Values(Shape{1, 9, 0}, Shape{4, 9, 0}, Shape{1, 12, 0}, Shape{4, 12, 0},
                    Shape{2, 9, UBLK_F_NEED_GET_DATA}, Shape{2, 9, 0, IOSQE_ASYNC},
                    Shape{1, 9, 0, 0, 0}, Shape{1, 9, 0, 0, IORING_SETUP_COOP_TASKRUN},
                    Shape{2, 9, 0, 0, IORING_SETUP_SQPOLL},
                    Shape{2, 9, UBLK_F_PER_IO_DAEMON, 0, ServerOptions{}.ring_flags, 2}),
    [](const testing::TestParamInfo<Shape>& shape) {
      return "queues" + std::to_string(shape.param.queues) + "_block" +
             std::to_string(1 << shape.param.block_shift) + "_case" + std::to_string(shape.index);
    });

TEST(Data, BufferedAndUnalignedAccessIsRight) {
  const Geometry geometry = {.queues = 2, .block_shift = 12};
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()), {}, O_RDWR);
  const std::string text = "unaligned text over a page boundary";
  ASSERT_EQ(pwrite(served.fd, text.data(), text.size(), 4090), ssize_t(text.size()));
  ASSERT_EQ(fsync(served.fd), 0);
  EXPECT_EQ(std::memcmp(ram.data() + 4090, text.data(), text.size()), 0)
      << "the server's memory must hold what was written through the page cache";
}

class DescriptorSize : public testing::TestWithParam<uint16_t> {};

// A queue whose descriptors lie elsewhere than the server thinks serves other sectors than asked
// for: each sector has a content of its own.
TEST_P(DescriptorSize, EachQueueHasItsOwnDescriptors_R31_R32) {
  Geometry geometry = {.queues = 4, .depth = 16};
  if (GetParam() != 0) geometry.flags = UBLK_F_IO_DESC_SIZE;
  geometry.desc_bytes = GetParam();
  {
    Control control;
    if ((control.Features() & geometry.flags) != geometry.flags) GTEST_SKIP() << "no such feature";
  }
  std::atomic<unsigned> queues = 0;
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    queues |= 1U << request.queue;
    for (size_t i = 0; i < request.bytes(); i += kSectorBytes) {
      const uint64_t sector = (request.offset() + i) / kSectorBytes;
      std::memcpy(request.buffer + i, &sector, sizeof(sector));
    }
    return static_cast<int>(request.bytes());
  });
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (uint16_t queue = 0; queue < served.device.geometry().queues; ++queue) {
    threads.emplace_back([&, cpu = CpuOfQueue(served.control, served.device.id(), queue)] {
      cpu_set_t cpus;
      CPU_ZERO(&cpus);
      CPU_SET(static_cast<size_t>(cpu), &cpus);
      sched_setaffinity(0, sizeof(cpus), &cpus);
      PageBuffer buffer(4096);
      std::mt19937 random(static_cast<unsigned>(cpu));
      for (int round = 0; round < 60; ++round) {
        const uint64_t sector = random() % (geometry.bytes / 4096) * 8;
        uint64_t got = 0;
        if (pread(served.fd, buffer.data(), 4096, static_cast<off_t>(sector * kSectorBytes)) !=
            4096)
          ++wrong;
        std::memcpy(&got, buffer.data(), sizeof(got));
        if (got != sector) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0) << "sectors that were not those asked for";
  EXPECT_EQ(queues, (1U << served.device.geometry().queues) - 1) << "not all queues were used";
}

INSTANTIATE_TEST_SUITE_P(Bytes, DescriptorSize, testing::Values(0, 24, 64, 128, 256),
                         [](const auto& bytes) { return std::to_string(bytes.param); });

TEST(Data, ProcessorsMayComeAndGo_R75) {
  const std::string processor = "/sys/devices/system/cpu/cpu1/online";
  if (ReadLine(processor) != "1") GTEST_SKIP() << "the second processor can't be switched off";
  const Geometry geometry = {.queues = 4};
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()));
  VerifiedLoad load(served.device.disk(), 4);
  const auto goes_on = [&] {
    const int before = load.done();
    return Eventually([&] { return load.done() > before + 100; }, std::chrono::seconds(60));
  };
  for (int round = 0; round < 3; ++round) {
    for (const char* state : {"0", "1"}) {
      EXPECT_TRUE(WriteLine(processor, state));
      EXPECT_TRUE(goes_on()) << "requests hang with the processor at " << state;
    }
  }
  load.Finish();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0);
}

}  // namespace
}  // namespace ublkd::driver_test
