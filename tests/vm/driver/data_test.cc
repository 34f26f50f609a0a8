// SPDX-License-Identifier: Apache-2.0
//
// What users of the disk see: data, flags, order, results.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t bytes) : data_(std::aligned_alloc(4096, bytes)) {}
  ~AlignedBuffer() { std::free(data_); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_;
};

// A device, its server in this process, and the disk opened.
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
      AlignedBuffer buffer(kMaxIo);
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
      AlignedBuffer buffer(4096);
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

TEST(Ops, DiscardAndWriteZeroesReachTheServer_R49) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())));
  std::memset(ram.data(), 0x77, geometry.bytes);

  uint64_t range[2] = {1 << 20, 64 << 10};
  ASSERT_EQ(ioctl(served.fd, BLKDISCARD, range), 0) << "discard refused";
  const auto discard = recorder.Find(UBLK_IO_OP_DISCARD);
  ASSERT_TRUE(discard.has_value()) << "the server saw no DISCARD";
  EXPECT_EQ(discard->sector, range[0] / 512);
  EXPECT_EQ(discard->sectors, range[1] / 512);

  recorder.Take();
  range[0] = 4 << 20;
  ASSERT_EQ(ioctl(served.fd, BLKZEROOUT, range), 0) << "zeroing refused";
  const auto zeroes = recorder.Find(UBLK_IO_OP_WRITE_ZEROES);
  ASSERT_TRUE(zeroes.has_value()) << "the server saw no WRITE_ZEROES";
  EXPECT_NE(zeroes->flags & UBLK_IO_F_NOUNMAP, 0U) << "BLKZEROOUT must not deallocate";
  EXPECT_EQ(ram.data()[4 << 20], std::byte{0});

  recorder.Take();
  ASSERT_EQ(fallocate(served.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 << 20, 64 << 10), 0);
  const auto punched = recorder.Find(UBLK_IO_OP_WRITE_ZEROES);
  ASSERT_TRUE(punched.has_value()) << "the server saw no WRITE_ZEROES for a hole";
  EXPECT_EQ(punched->flags & UBLK_IO_F_NOUNMAP, 0U) << "punching a hole may deallocate";
}

TEST(Ops, FlushIsSentForAVolatileCache_R49) {
  Geometry geometry;
  geometry.attrs = UBLK_ATTR_VOLATILE_CACHE;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())));
  ASSERT_EQ(fsync(served.fd), 0);
  EXPECT_TRUE(recorder.Find(UBLK_IO_OP_FLUSH).has_value()) << "fsync must reach the server";
}

TEST(Ops, NoFlushWithoutAVolatileCache) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())));
  ASSERT_EQ(fsync(served.fd), 0);
  EXPECT_FALSE(recorder.Find(UBLK_IO_OP_FLUSH).has_value())
      << "a device without a volatile cache needs no flush";
}

TEST(Ops, FuaIsForwarded_R54) {
  Geometry geometry;
  geometry.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())), {}, O_RDWR | O_DIRECT | O_DSYNC);
  AlignedBuffer buffer(4096);
  std::memset(buffer.data(), 1, 4096);
  ASSERT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), 4096);
  const auto write = recorder.Find(UBLK_IO_OP_WRITE);
  ASSERT_TRUE(write.has_value());
  EXPECT_NE(write->flags & UBLK_IO_F_FUA, 0U) << "an O_DSYNC write must carry FUA";
}

TEST(Ops, HintsOfTheirUsersAreForwarded_R54) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())), {}, O_RDWR);
  const std::string disk = served.device.disk();
  const auto flags = [&](uint8_t op) {
    uint32_t all = 0;
    for (const Seen& seen : recorder.Take())
      if (seen.op == op) all |= seen.flags;
    return all;
  };

  constexpr uint32_t kFailFast =
      UBLK_IO_F_FAILFAST_DEV | UBLK_IO_F_FAILFAST_TRANSPORT | UBLK_IO_F_FAILFAST_DRIVER;
  // A page may be read ahead and not be there in the end.
  recorder.Take();
  ASSERT_EQ(posix_fadvise(served.fd, 8 << 20, 64 << 10, POSIX_FADV_WILLNEED), 0);
  uint32_t seen = 0;
  EXPECT_TRUE(Eventually([&] { return ((seen |= flags(UBLK_IO_OP_READ)) & kFailFast) != 0; }));
  EXPECT_EQ(seen & kFailFast, kFailFast) << "of what is only read ahead";

  ASSERT_EQ(std::system(("mke2fs -q -t ext2 " + disk + " 4096").c_str()), 0);
  const char* folder = "/tmp/meta";
  mkdir(folder, 0700);
  recorder.Take();
  // Without the pages that mke2fs has left.
  ASSERT_EQ(ioctl(served.fd, BLKFLSBUF, 0), 0);
  ASSERT_EQ(mount(disk.c_str(), folder, "ext4", 0, nullptr), 0) << std::strerror(errno);
  close(open((std::string(folder) + "/file").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  ASSERT_EQ(umount(folder), 0);
  EXPECT_NE(flags(UBLK_IO_OP_READ) & UBLK_IO_F_META, 0U) << "of what ext4 reads of its own";

  ASSERT_EQ(std::system(("mkswap " + disk + " >/dev/null 2>&1").c_str()), 0);
  recorder.Take();
  ASSERT_EQ(swapon(disk.c_str(), 0), 0) << std::strerror(errno);
  constexpr size_t kBytes = 256 << 10;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  seen = 0;
  EXPECT_TRUE(Eventually([&] {
    std::memset(memory, 1, kBytes);
    madvise(memory, kBytes, MADV_PAGEOUT);
    return ((seen |= flags(UBLK_IO_OP_WRITE)) & UBLK_IO_F_SWAP) != 0;
  })) << "of pages that are swapped out";
  munmap(memory, kBytes);
  ASSERT_EQ(swapoff(disk.c_str()), 0);
}

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

TEST(Ops, AttributesShowInSysfs) {
  Geometry geometry;
  geometry.attrs = UBLK_ATTR_READ_ONLY | UBLK_ATTR_ROTATIONAL | UBLK_ATTR_VOLATILE_CACHE;
  geometry.block_shift = 12;
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()), {}, O_RDONLY);
  const std::string queue = "/sys/block/ublkb" + std::to_string(served.device.id()) + "/";
  const auto read_sysfs = [&](const std::string& name) {
    char text[64] = {};
    const int fd = open((queue + name).c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    return std::string(text, n > 0 ? size_t(n) - 1 : 0);
  };
  EXPECT_EQ(read_sysfs("ro"), "1");
  EXPECT_EQ(read_sysfs("queue/rotational"), "1");
  EXPECT_EQ(read_sysfs("queue/write_cache"), "write back");
  EXPECT_EQ(read_sysfs("queue/logical_block_size"), "4096");
  EXPECT_EQ(read_sysfs("queue/max_hw_sectors_kb"), "512");
  EXPECT_EQ(read_sysfs("size"), std::to_string(geometry.bytes / 512));
  const int writer = open(served.device.disk().c_str(), O_RDWR | O_CLOEXEC);
  if (writer >= 0) {
    EXPECT_EQ(pwrite(writer, "x", 1, 0), -1) << "a read-only disk must not be written";
    close(writer);
  }
}

// One submitter, one queue: the server gets requests in the order of submission.
TEST(Order, RequestsArriveAsSubmitted_R45) {
  const Geometry geometry = {.queues = 1, .depth = 64};
  Recorder recorder;
  Served served(geometry, recorder.Wrap([](const Request& request) -> std::optional<int> {
    return static_cast<int>(request.bytes());
  }));
  // The partition scan may still read: it ends before its requests are looked at.
  Ring ring(64, 0);
  ASSERT_EQ(ring.error(), 0);
  AlignedBuffer buffer(4096 * 32);
  std::vector<uint64_t> expected;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 32; ++i) {
      // Not adjacent, so that nothing is merged.
      const uint64_t sector = static_cast<uint64_t>((round * 32 + i) * 2 + 100) * 8;
      io_uring_sqe* sqe = io_uring_get_sqe(ring.get());
      io_uring_prep_write(sqe, served.fd, buffer.data() + 4096 * i, 4096, sector * 512);
      expected.push_back(sector);
    }
    ASSERT_EQ(io_uring_submit(ring.get()), 32);
    for (int i = 0; i < 32; ++i) {
      ASSERT_EQ(ring.Finish(), 4096);
    }
  }
  std::vector<uint64_t> arrived;
  for (const Seen& seen : recorder.Take())
    if (seen.op == UBLK_IO_OP_WRITE) arrived.push_back(seen.sector);
  EXPECT_EQ(arrived, expected) << "requests of one queue arrived in another order";
}

TEST(Order, DescriptorsStayAsTheyAreUntilTheCommit_R46) {
  constexpr uint16_t kHeld = 7;
  const Geometry geometry = {
      .depth = kHeld + 1, .flags = UBLK_F_NO_AUTO_PART_SCAN, .discard = false};
  // By place on the disk, since who comes first gets which tag is open.
  std::vector<std::pair<uint16_t, ublksrv_io_desc>> held;
  std::atomic<int> wrong = 0;
  std::atomic<bool> hold = true;
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    const uint64_t block = request.offset() / 4096;
    const bool right = request.bytes() == 4096 && request.op() == UBLK_IO_OP_WRITE &&
                       std::all_of(request.buffer, request.buffer + 4096,
                                   [&](std::byte b) { return b == static_cast<std::byte>(block); });
    if (!right) ++wrong;
    if (!hold || block >= kHeld) return 4096;
    held.emplace_back(request.tag, *request.desc);
    return std::nullopt;
  });
  const auto write = [&](uint64_t block) {
    const AlignedBuffer buffer(4096);
    std::memset(buffer.data(), static_cast<int>(block & 0xff), 4096);
    return pwrite(served.fd, buffer.data(), 4096, static_cast<off_t>(block * 4096)) == 4096;
  };
  std::vector<std::thread> writers;
  std::atomic<int> failed = 0;
  for (uint64_t block = 0; block < kHeld; ++block) {
    writers.emplace_back([&, block] { failed += write(block) ? 0 : 1; });
  }
  const auto in_server = [&](const std::function<void(QueueServer&)>& action) {
    served.server->InThread(0, action);
  };
  EXPECT_TRUE(Eventually([&] {
    bool all = false;
    in_server([&](QueueServer&) { all = held.size() == kHeld; });
    return all;
  }));
  for (uint64_t round = 0; round < 100; ++round) EXPECT_TRUE(write(100 + round));
  hold = false;
  in_server([&](QueueServer& q) {
    for (const auto& [tag, desc] : held) {
      EXPECT_EQ(std::memcmp(&q.Desc(tag), &desc, sizeof(desc)), 0) << "tag " << tag;
      q.Commit(tag, 4096);
    }
  });
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(wrong, 0) << "a server was told before descriptor and data were there";
}

// To end a request may end the last use of the disk, and that waits for a write that the same
// thread of the server has to answer.
TEST(Results, TheLastUseOfADiskEndsInAnotherTask_R50) {
  const Geometry geometry = {.flags = UBLK_F_NO_AUTO_PART_SCAN};
  SharedMemory ram(geometry.bytes);
  const Handler inner = RamHandler(ram.data());
  std::atomic<bool> hold = true;
  Control control;
  Device device(control, geometry);
  Server server(device.id(), geometry, [&](const Request& request) -> std::optional<int> {
    if (hold && request.op() == UBLK_IO_OP_READ) return std::nullopt;
    return inner(request);
  });
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);

  aio_context_t aio = 0;
  ASSERT_EQ(syscall(SYS_io_setup, 1, &aio), 0);
  const AlignedBuffer buffer(4096);
  const int direct = open(device.disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  iocb io = {};
  io.aio_lio_opcode = IOCB_CMD_PREAD;
  io.aio_fildes = static_cast<uint32_t>(direct);
  io.aio_buf = reinterpret_cast<uintptr_t>(buffer.data());
  io.aio_nbytes = 4096;
  iocb* ios = &io;
  ASSERT_EQ(syscall(SYS_io_submit, aio, 1, &ios), 1);
  const int cached = open(device.disk().c_str(), O_RDWR | O_CLOEXEC);
  const auto held = [&] {
    size_t count = 0;
    server.InThread(0, [&](QueueServer& q) { count = q.kept().size(); });
    return count;
  };
  ASSERT_TRUE(Eventually([&] { return held() == 1; }));
  // A whole page, which needs not be read before.
  ASSERT_EQ(pwrite(cached, std::string(4096, 'x').c_str(), 4096, 8192), 4096);
  close(cached);
  // Only the request in flight still uses the disk.
  close(direct);
  hold = false;
  server.InThread(0, [](QueueServer& q) { q.Commit(q.kept()[0], 4096); });
  io_event event = {};
  EXPECT_EQ(syscall(SYS_io_getevents, aio, 1, 1, &event, nullptr), 1);
  EXPECT_EQ(event.res, 4096);
  EXPECT_TRUE(Eventually([&] { return ram.data()[8192] == std::byte{'x'}; }))
      << "the server waits for itself";
  EXPECT_TRUE(Eventually([&] { return control.TryStop(device.id()) == 0; }))
      << "the disk is still in use";
  EXPECT_EQ(syscall(SYS_io_destroy, aio), 0);
}

TEST(Results, ErrorsAreMapped_R48) {
  const Geometry geometry;
  std::atomic<int> answer = -EIO;
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    return request.op() == UBLK_IO_OP_WRITE ? answer.load() : int(request.bytes());
  });
  AlignedBuffer buffer(4096);
  for (const int err : {EIO, ENOSPC, ETIMEDOUT}) {
    answer = -err;
    errno = 0;
    EXPECT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), -1);
    EXPECT_EQ(errno, err) << "the server's error must reach the user";
  }
}

TEST(Results, ReadOfNothingIsAnError_R36_R48) {
  const Geometry geometry = {.bytes = 1 << 20};
  std::atomic<bool> empty = false;
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    std::memset(request.buffer, 0, request.op() == UBLK_IO_OP_READ ? request.bytes() : 0);
    return empty ? 0 : int(request.bytes());
  });
  AlignedBuffer buffer(4096);
  empty = true;
  EXPECT_EQ(pread(served.fd, buffer.data(), 4096, 512 << 10), -1)
      << "a read that returned nothing must not succeed with stale memory";
  EXPECT_EQ(errno, EIO);
  empty = false;
}

TEST(Results, ShortReadIsContinued_R48) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  for (size_t i = 0; i < geometry.bytes; ++i) ram.data()[i] = std::byte(i / 512 * 7 + i);
  Recorder recorder;
  Served served(geometry, recorder.Wrap([&](const Request& request) -> std::optional<int> {
    if (request.op() != UBLK_IO_OP_READ) return 0;
    // At most 1 KiB at a time, and a crooked number when it is less than all.
    const size_t bytes = std::min<size_t>(request.bytes(), 1024);
    std::memcpy(request.buffer, ram.data() + request.offset(), bytes);
    return static_cast<int>(bytes < request.bytes() ? bytes + 100 : bytes);
  }));
  AlignedBuffer buffer(16384);
  ASSERT_EQ(pread(served.fd, buffer.data(), 16384, 1 << 20), 16384);
  EXPECT_EQ(std::memcmp(buffer.data(), ram.data() + (1 << 20), 16384), 0)
      << "what is missing after a short read has to be asked for again";
}

TEST(Results, ShortWriteIsContinued_R48) {
  if (!DriverIsOurs())
    GTEST_SKIP() << "stock drivers from 7.x on take a short write as a whole one";
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    const size_t bytes = std::min<size_t>(request.bytes(), 1536);
    if (request.op() == UBLK_IO_OP_READ) return int(request.bytes());
    std::memcpy(ram.data() + request.offset(), request.buffer, bytes);
    return static_cast<int>(bytes);
  });
  AlignedBuffer buffer(16384);
  for (size_t i = 0; i < 16384; ++i) buffer.data()[i] = std::byte(i * 13 / 7);
  ASSERT_EQ(pwrite(served.fd, buffer.data(), 16384, 0), 16384);
  EXPECT_EQ(std::memcmp(buffer.data(), ram.data(), 16384), 0)
      << "what is missing after a short write has to be written again";
}

TEST(Results, TooMuchIsClamped_R48) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    RamHandler(ram.data())(request);
    return INT32_MAX;
  });
  AlignedBuffer buffer(4096);
  EXPECT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), 4096);
  EXPECT_EQ(pread(served.fd, buffer.data(), 4096, 0), 4096);
}

// A server that loses its buffer gets no data it can't have, and the write is not lost.
TEST(Results, WriteIntoAFaultingBufferIsRetried_R47) {
  const Geometry geometry = {.depth = 1};
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()));
  ASSERT_TRUE(PartitionScanHasEnded(served.device.disk()));
  AlignedBuffer buffer(4096);
  std::memset(buffer.data(), 0x3c, 4096);
  // Let the tag be armed once more, then take its memory away.
  ASSERT_EQ(pwrite(served.fd, buffer.data(), 4096, 8192), 4096);
  uint64_t addr = 0;
  served.server->InThread(0, [&](QueueServer& queue) {
    addr = queue.Buffer(0);
    mprotect(reinterpret_cast<void*>(addr), 4096, PROT_NONE);
  });
  std::atomic<ssize_t> written = -2;
  std::thread writer([&] { written = pwrite(served.fd, buffer.data(), 4096, 4096); });
  EXPECT_FALSE(Eventually([&] { return written != -2; }, std::chrono::milliseconds(300)))
      << "the write can't be finished while the buffer is away";
  mprotect(reinterpret_cast<void*>(addr), 4096, PROT_READ | PROT_WRITE);
  writer.join();
  EXPECT_EQ(written, 4096);
  EXPECT_EQ(std::memcmp(ram.data() + 4096, buffer.data(), 4096), 0);
}

TEST(GetData, WriteWithoutTakingTheDataCanFail_R41) {
  Geometry geometry = {.depth = 4, .flags = UBLK_F_NEED_GET_DATA};
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()));
  served.server->InThread(0, [](QueueServer& queue) {
    EXPECT_EQ(queue.Try(UBLK_U_IO_NEED_GET_DATA, 0, 1, 0, queue.Buffer(1)), -EBUSY)
        << "NEED_GET_DATA without being asked for it";
  });
  AlignedBuffer buffer(4096);
  EXPECT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), 4096);
}

}  // namespace
}  // namespace ublkd::driver_test
