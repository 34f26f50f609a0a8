// SPDX-License-Identifier: Apache-2.0
//
// Queues that are served as a whole (UBLK_F_BATCH_IO), by any thread. Skipped where the kernel
// can't.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "tests/vm/driver/batch_server.h"
#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/user_copy.h"
#include "tests/vm/driver/zero_copy.h"
#include "tests/vm/driver/zoned_disk.h"

namespace ublkd::driver_test {
namespace {

constexpr size_t kIoBytes = 4096;

Geometry BatchGeometry(uint16_t queues = 1, uint64_t more_flags = 0) {
  return {.queues = queues,
          .depth = 16,
          .flags = UBLK_F_BATCH_IO | more_flags,
          .bytes = 8 << 20,
          .max_io_bytes = 64 << 10};
}

Geometry ZonedGeometry() {
  Geometry geometry = BatchGeometry(1, UBLK_F_ZONED | UBLK_F_USER_COPY);
  geometry.discard = false;
  geometry.block_shift = 12;
  geometry.zone_bytes = 1 << 20;
  return geometry;
}

class Batch : public testing::Test {
 protected:
  void SetUp() override {
    if ((control_.Features() & UBLK_F_BATCH_IO) == 0) GTEST_SKIP() << "not on this kernel";
  }

  // Writes and reads back all over the disk from several threads.
  static void ExpectRightData(const std::string& disk, unsigned threads, int rounds) {
    std::vector<std::thread> users;
    for (unsigned i = 0; i < threads; ++i) {
      users.emplace_back([&disk, i, threads, rounds] {
        const int fd = open(disk.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
        ASSERT_GE(fd, 0);
        auto* buffer = static_cast<unsigned char*>(std::aligned_alloc(4096, 4 * kIoBytes));
        std::mt19937 random(i);
        for (int round = 0; round < rounds; ++round) {
          const size_t bytes = (1 + random() % 4) * kIoBytes;
          const auto at = static_cast<off_t>((random() % 60 * threads + i) * 4 * kIoBytes);
          const auto mark = static_cast<unsigned char>(random());
          std::memset(buffer, mark, bytes);
          ASSERT_EQ(pwrite(fd, buffer, bytes, at), static_cast<ssize_t>(bytes));
          std::memset(buffer, 0, bytes);
          ASSERT_EQ(pread(fd, buffer, bytes, at), static_cast<ssize_t>(bytes));
          ASSERT_EQ(buffer[0], mark);
          ASSERT_EQ(buffer[bytes - 1], mark);
        }
        std::free(buffer);
        close(fd);
      });
    }
    for (std::thread& user : users) user.join();
  }

  Control control_;
};

TEST_F(Batch, DataIsRightOnOneAndFourQueues_R78) {
  for (const uint16_t queues : {uint16_t{1}, uint16_t{4}}) {
    Device device(control_, BatchGeometry(queues));
    ASSERT_EQ(device.error(), 0);
    EXPECT_EQ(device.info().flags & UBLK_F_PER_IO_DAEMON, 0U) << "no tag has a task of its own";
    SharedMemory memory(device.geometry().bytes);
    BatchServer server(device.id(), device.geometry(), RamHandler(memory.data()));
    ASSERT_EQ(server.error(), 0);
    ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
    ExpectRightData(device.disk(), 4, 200);
    ASSERT_EQ(control_.Stop(device.id()), 0);
    server.Close();
    EXPECT_GT(server.delivered(), 4U * 200);
    EXPECT_EQ(server.refused(), 0U) << "PREP or COMMIT was not done as a whole";
  }
}

TEST_F(Batch, SeveralThreadsServeAQueue_R78) {
  Device device(control_, BatchGeometry());
  SharedMemory memory(device.geometry().bytes);
  BatchServer server(device.id(), device.geometry(), RamHandler(memory.data()), 3);
  ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
  ExpectRightData(device.disk(), 8, 200);
  ASSERT_EQ(control_.Stop(device.id()), 0);
  server.Close();
  EXPECT_EQ(server.refused(), 0U) << "PREP or COMMIT was not done as a whole";
}

TEST_F(Batch, ServesZonesWithUserCopy_R78) {
  Device device(control_, ZonedGeometry());
  ASSERT_EQ(device.error(), 0);
  ZoneServer zones(device.geometry());
  BatchServer server(device.id(), device.geometry(), zones.handler());
  ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
  const int disk = open(device.disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  ASSERT_GE(disk, 0);
  const PageBuffer page(kPage);
  const auto second = static_cast<off_t>(device.geometry().zone_bytes);
  for (int i = 0; i < 3; ++i) {
    FillPattern(page.data(), kPage, static_cast<uint32_t>(i));
    EXPECT_EQ(WriteAt(disk, page.data(), kPage, second + i * off_t{kPage}), int{kPage});
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ReadAt(disk, page.data(), kPage, second + i * off_t{kPage}), int{kPage});
    EXPECT_TRUE(HoldsPattern(page.data(), kPage, static_cast<uint32_t>(i)));
  }
  const uint64_t sector = device.geometry().zone_bytes / kSectorBytes;
  const auto zone = ReportZones(disk, sector, 1);
  ASSERT_TRUE(zone.has_value() && zone->size() == 1);
  EXPECT_EQ((*zone)[0].wp, sector + 3 * kPage / kSectorBytes);
  EXPECT_EQ(ManageZones(disk, BLKRESETZONE, sector, sector), 0);
  close(disk);
  ASSERT_EQ(control_.Stop(device.id()), 0);
  server.Close();
  EXPECT_EQ(server.refused(), 0U) << "PREP or COMMIT was not done as a whole";
}

TEST_F(Batch, ServesWithUserCopy_R78) {
  Device device(control_, BatchGeometry(1, UBLK_F_USER_COPY));
  ASSERT_EQ(device.error(), 0);
  SharedMemory memory(device.geometry().bytes);
  BatchServer server(device.id(), device.geometry(), UserCopyRam(memory.data()));
  ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
  ExpectRightData(device.disk(), 2, 100);
  ASSERT_EQ(control_.Stop(device.id()), 0);
  server.Close();
  EXPECT_EQ(server.refused(), 0U) << "PREP or COMMIT was not done as a whole";
}

// Files are closed after io_uring has waited for its workers, and one of them waits for a request
// that nobody but the release of the char device gives back.
TEST_F(Batch, AServerThatStopsItsOwnDeviceCanBeKilled_R02) {
  struct Shared {
    std::atomic<int> held = 0;
    std::atomic<bool> stop = false;
  };
  Device device(control_, BatchGeometry(1, UBLK_F_NO_AUTO_PART_SCAN));
  ASSERT_EQ(device.error(), 0);
  const SharedMemory memory(sizeof(Shared));
  auto* shared = memory.as<Shared>();
  ServerProcess process([&] {
    const Handler keeps = [&](const Request&) -> std::optional<int> {
      ++shared->held;
      for (;;) pause();
    };
    const BatchServer server(device.id(), device.geometry(), keeps);
    while (!shared->stop) usleep(1000);
    Control().Stop(device.id());
  });
  ASSERT_EQ(control_.Start(device.id(), process.pid()), 0);
  OpenDisk disk(device.disk());
  const PendingIo io(disk, PendingIo::Op::kRead, 0);
  ASSERT_TRUE(Eventually([&] { return shared->held > 0; })) << "the server gets no request";
  shared->stop = true;
  ASSERT_TRUE(Eventually([&] { return control_.Resize(device.id(), 16384) == -ENODEV; }))
      << "the disk is not being removed";
  kill(process.pid(), SIGKILL);
  EXPECT_TRUE(process.Wait().has_value()) << "the server can't be killed";
  EXPECT_EQ(io.Result(), -EIO);
  disk.Close();
  EXPECT_EQ(device.Delete(), 0);
}

// As above: START_DEV waits for the zones.
TEST_F(Batch, AServerThatStartsItsOwnZonedDiskCanBeKilled_R02) {
  Device device(control_, ZonedGeometry());
  ASSERT_EQ(device.error(), 0);
  const SharedMemory memory(sizeof(std::atomic<int>));
  auto* held = memory.as<std::atomic<int>>();
  ServerProcess process([&] {
    const Handler keeps = [&](const Request&) -> std::optional<int> {
      ++*held;
      for (;;) pause();
    };
    const BatchServer server(device.id(), device.geometry(), keeps);
    Control().Start(device.id(), getpid());
  });
  ASSERT_TRUE(Eventually([&] { return *held > 0; })) << "the server is not asked for zones";
  kill(process.pid(), SIGKILL);
  EXPECT_TRUE(process.Wait().has_value()) << "the server can't be killed";
  EXPECT_FALSE(PathExists(device.disk()));
  EXPECT_EQ(device.Delete(), 0);
}

// Serves one queue out of a file, with one thread in whose ring requests find their pages
// registered, in place `tag` + `shift`.
class AutoBatchServer {
 public:
  AutoBatchServer(uint32_t id, const Geometry& geometry, int file, uint16_t shift, uint16_t flags)
      : geometry_(geometry), file_(file), shift_(shift), flags_(flags) {
    chan_ = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_GE(chan_, 0);
    thread_ = std::thread([this] { Serve(); });
  }
  ~AutoBatchServer() { Close(); }
  AutoBatchServer(const AutoBatchServer&) = delete;
  AutoBatchServer& operator=(const AutoBatchServer&) = delete;

  void Close() {
    if (!thread_.joinable()) return;
    thread_.join();
    close(chan_);
  }
  uint64_t delivered() const { return delivered_; }
  // Requests that came without their pages.
  uint64_t unregistered() const { return unregistered_; }
  // Places that still had something in them after a commit.
  uint64_t left() const { return left_; }

 private:
  ublk_elem_header ElementOf(uint16_t tag, int result) const {
    return {.tag = tag, .buf_index = static_cast<uint16_t>(tag + shift_), .result = result};
  }

  void Serve() {
    void* map = mmap(nullptr, kIoBytes, PROT_READ, MAP_SHARED | MAP_POPULATE, chan_, 0);
    const auto* descs = static_cast<const ublksrv_io_desc*>(map);
    BatchRing ring(chan_);
    EXPECT_EQ(io_uring_register_buffers_sparse(ring.get(), kPlaces), 0);
    for (uint16_t i = 0; i < kFetchBuffers; ++i) ring.Provide(i);
    std::vector<ublk_elem_header> all;
    for (uint16_t tag = 0; tag < geometry_.depth; ++tag) all.push_back(ElementOf(tag, 0));
    EXPECT_EQ(ring.RunWith(UBLK_U_IO_PREP_IO_CMDS, 0, flags_, all), 0);

    bool over = false;
    std::deque<uint16_t> waiting;
    const auto on_answer = [&](const io_uring_cqe& cqe) {
      if (cqe.res > 0) {
        for (const uint16_t tag : ring.Tags(cqe)) waiting.push_back(tag);
      }
      if ((cqe.flags & IORING_CQE_F_MORE) != 0) return;
      over = cqe.res != -ENOBUFS && cqe.res <= 0;
      if (!over) ring.Fetch(0, 0);
    };
    const auto transfer = [&](uint8_t op, size_t bytes, uint64_t offset, unsigned place) {
      io_uring_sqe* sqe = io_uring_get_sqe(ring.get());
      PutTransfer(sqe, op, file_, bytes, offset, place);
      return ring.Await(sqe, on_answer);
    };
    const auto answer = [&](uint16_t tag) {
      const Request request = {
          .queue = 0, .tag = tag, .desc = &descs[tag], .buffer = nullptr, .fd = chan_};
      if (!HasData(request)) return 0;
      if ((request.desc->op_flags & UBLK_IO_F_NEED_REG_BUF) != 0) {
        ++unregistered_;
        return -ENOMEM;
      }
      return transfer(request.op(), request.bytes(), request.offset(),
                      static_cast<unsigned>(tag + shift_));
    };
    ring.Fetch(0, 0);
    while (!over || !waiting.empty()) {
      if (waiting.empty()) {
        // One answer at least; it may be followed by others.
        io_uring_cqe* cqe = nullptr;
        if (io_uring_submit_and_wait(ring.get(), 1) < 0 ||
            io_uring_peek_cqe(ring.get(), &cqe) != 0) {
          continue;
        }
        const io_uring_cqe copy = {
            .user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags};
        io_uring_cqe_seen(ring.get(), cqe);
        on_answer(copy);
        continue;
      }
      const uint16_t tag = waiting.front();
      waiting.pop_front();
      ++delivered_;
      const std::vector<ublk_elem_header> done = {ElementOf(tag, answer(tag))};
      EXPECT_EQ(ring.RunWith(UBLK_U_IO_COMMIT_IO_CMDS, 0, flags_, done, on_answer),
                static_cast<int>(sizeof(ublk_elem_header)));
    }
    // The disk is gone, and every request of it: nothing may be registered any more.
    for (unsigned place = 0; place < kPlaces; ++place) {
      if (transfer(UBLK_IO_OP_READ, kIoBytes, 0, place) != -EFAULT) ++left_;
    }
    munmap(map, kIoBytes);
  }

  const Geometry geometry_;
  const int file_;
  const uint16_t shift_;
  const uint16_t flags_;
  int chan_ = -1;
  std::atomic<uint64_t> delivered_ = 0;
  std::atomic<uint64_t> unregistered_ = 0;
  std::atomic<uint64_t> left_ = 0;
  std::thread thread_;
};

constexpr uint64_t kAuto = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG;

TEST_F(Batch, FindsThePagesOfItsRequestsRegistered_R77_R78) {
  const Geometry geometry = BatchGeometry(1, kAuto | UBLK_F_NO_AUTO_PART_SCAN);
  Device device(control_, geometry);
  ASSERT_EQ(device.info().flags & kAuto, kAuto);
  const BackingFile file(geometry.bytes);
  AutoBatchServer server(device.id(), geometry, file.fd(), 3, 0);
  ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
  ExpectRightData(device.disk(), 4, 100);
  ASSERT_EQ(control_.Stop(device.id()), 0);
  server.Close();
  EXPECT_GE(server.delivered(), 4U * 100 * 2);
  EXPECT_EQ(server.unregistered(), 0U);
  EXPECT_EQ(server.left(), 0U) << "pages of requests that have ended are still registered";
}

TEST_F(Batch, IsToldOfPagesThatCouldNotBeRegisteredIfItAsksForThat_R77_R78) {
  const Geometry geometry = BatchGeometry(1, kAuto | UBLK_F_NO_AUTO_PART_SCAN);
  const BackingFile file(geometry.bytes);
  for (const uint16_t flags : {uint16_t{UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK}, uint16_t{0}}) {
    Device device(control_, geometry);
    // No ring has such places.
    AutoBatchServer server(device.id(), geometry, file.fd(), kPlaces, flags);
    ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
    EXPECT_LT(OpenDisk(device.disk()).Read(0), 0);
    ASSERT_EQ(control_.Stop(device.id()), 0);
    server.Close();
    EXPECT_EQ(server.delivered(), server.unregistered());
    EXPECT_EQ(server.unregistered() != 0, flags != 0) << "the server was not asked";
  }
}

TEST_F(Batch, CommandsForSingleTagsAreRefused) {
  Device device(control_, BatchGeometry());
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    Ring ring(8, 0);
    io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ);
    const ublksrv_io_cmd command = {.q_id = 0, .tag = 0, .result = 0, .addr = 4096};
    std::memcpy(sqe->cmd, &command, sizeof(command));
    EXPECT_EQ(ring.Finish(), -EOPNOTSUPP);
  }
  close(fd);
}

TEST_F(Batch, PrepIsAllOrNothing_R78) {
  const Geometry geometry = BatchGeometry();
  Device device(control_, geometry);
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    BatchRing ring(fd);
    ASSERT_EQ(ring.error(), 0);
    std::vector<Element> elements(geometry.depth);
    for (uint16_t tag = 0; tag < geometry.depth; ++tag) {
      elements[tag] = {.head = {.tag = tag, .buf_index = 0, .result = 0}, .addr = kIoBytes};
    }
    std::vector<Element> twice = elements;
    twice.back().head.tag = 0;
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, twice), -EINVAL) << "a tag twice";
    std::vector<Element> beyond = elements;
    beyond.back().head.tag = geometry.depth;
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, beyond), -EINVAL) << "no such tag";
    std::vector<Element> without = elements;
    without.back().addr = 0;
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, without), -EINVAL) << "no buffer";
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 9, elements), -EINVAL) << "no such queue";
    elements.push_back({});
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, elements), -E2BIG);
    elements.pop_back();
    EXPECT_EQ(ring.Run(UBLK_U_IO_COMMIT_IO_CMDS, 0, elements), -EBUSY) << "nothing was given";
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, elements), 0) << "the failures left something";
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, elements), -EBUSY) << "all tags are there";
  }
  close(fd);
}

TEST_F(Batch, ACommitSaysHowFarItCame_R78) {
  const Geometry geometry = BatchGeometry(1, UBLK_F_NO_AUTO_PART_SCAN);
  Device device(control_, geometry);
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const auto memory = std::make_unique<std::byte[]>(kIoBytes);
  const auto element = [&](uint16_t tag, int result) {
    return Element{.head = {.tag = tag, .buf_index = 0, .result = result},
                   .addr = reinterpret_cast<uintptr_t>(memory.get())};
  };
  {
    BatchRing ring(fd);
    for (uint16_t i = 0; i < kFetchBuffers; ++i) ring.Provide(i);
    std::vector<Element> all;
    for (uint16_t tag = 0; tag < geometry.depth; ++tag) all.push_back(element(tag, 0));
    ASSERT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, all), 0);
    ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
    const OpenDisk disk(device.disk());
    const PendingIo first(disk, PendingIo::Op::kRead, 0);
    const PendingIo second(disk, PendingIo::Op::kRead, 8192);
    std::vector<uint16_t> tags;
    ring.Fetch(0, 0);
    while (tags.size() < 2) {
      io_uring_cqe* cqe = nullptr;
      io_uring_submit_and_wait(ring.get(), 1);
      if (io_uring_peek_cqe(ring.get(), &cqe) != 0) continue;
      const io_uring_cqe copy = {.user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags};
      io_uring_cqe_seen(ring.get(), cqe);
      ASSERT_GT(copy.res, 0) << "the fetch ended";
      for (const uint16_t tag : ring.Tags(copy)) tags.push_back(tag);
    }
    const auto none =
        static_cast<uint16_t>(std::find_if(all.begin(), all.end(), [&](const auto& e) {
                                return e.head.tag != tags[0] && e.head.tag != tags[1];
                              })->head.tag);
    const int io = int{kIoBytes};
    EXPECT_EQ(ring.Run(UBLK_U_IO_COMMIT_IO_CMDS, 0,
                       {element(tags[0], io), element(none, io), element(tags[1], io)}),
              int{sizeof(Element)})
        << "the second has no request";
    EXPECT_TRUE(Eventually([&] { return !first.Waits() || !second.Waits(); }));
    EXPECT_EQ(ring.Run(UBLK_U_IO_COMMIT_IO_CMDS, 0, {element(tags[0], io)}), -EBUSY)
        << "it was committed";
    EXPECT_EQ(ring.Run(UBLK_U_IO_COMMIT_IO_CMDS, 0, {element(tags[1], io)}), int{sizeof(Element)});
    EXPECT_EQ(first.Result(), io);
    EXPECT_EQ(second.Result(), io);
  }
  close(fd);
  EXPECT_EQ(control_.Stop(device.id()), 0);
}

TEST_F(Batch, AKilledServerLeavesADeadDeviceOrARecoverableOne_R78_R67) {
  for (const uint64_t flags :
       {uint64_t{0}, uint64_t{UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE}}) {
    const Geometry geometry = BatchGeometry(2, flags);
    Device device(control_, geometry);
    ASSERT_EQ(device.error(), 0);
    SharedMemory memory(geometry.bytes);
    const auto serve = [&] {
      BatchServer server(device.id(), device.geometry(), RamHandler(memory.data()), 2);
      server.Close();
    };
    ServerProcess first(serve);
    ASSERT_EQ(control_.Start(device.id(), first.pid()), 0);
    std::atomic<int> failed = 0;
    std::atomic<int> done = 0;
    std::atomic<bool> stop = false;
    std::thread user([&] {
      const int fd = open(device.disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
      void* buffer = std::aligned_alloc(4096, kIoBytes);
      std::memset(buffer, 1, kIoBytes);
      while (!stop && failed == 0) {
        if (pwrite(fd, buffer, kIoBytes, 0) != static_cast<ssize_t>(kIoBytes)) ++failed;
        ++done;
      }
      std::free(buffer);
      close(fd);
    });
    ASSERT_TRUE(Eventually([&] { return done > 50; }));
    first.Kill();
    if (flags == 0) {
      EXPECT_TRUE(Eventually([&] { return control_.State(device.id()) == UBLK_S_DEV_DEAD; }));
      user.join();
      EXPECT_EQ(failed, 1);
    } else {
      EXPECT_TRUE(Eventually([&] { return control_.State(device.id()) == UBLK_S_DEV_QUIESCED; }));
      EXPECT_TRUE(Eventually([&] {
        return control_.Run(UBLK_U_CMD_START_USER_RECOVERY, {.dev_id = device.id()}) == 0;
      })) << "START_USER_RECOVERY stays refused";
      ServerProcess second(serve);
      EXPECT_EQ(control_.Run(UBLK_U_CMD_END_USER_RECOVERY,
                             {.dev_id = device.id(), .data = uint64_t(second.pid())}),
                0);
      const int before = done;
      EXPECT_TRUE(Eventually([&] { return done > before + 50; })) << "I/O does not go on";
      stop = true;
      user.join();
      EXPECT_EQ(failed, 0) << "a request was lost";
      second.Kill();
    }
    EXPECT_EQ(device.Delete(), 0);
  }
}

}  // namespace
}  // namespace ublkd::driver_test
