// SPDX-License-Identifier: Apache-2.0
//
// UBLK_F_SHMEM_ZC: requests whose data lies in memory that the server has registered are not
// copied.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <future>

#include "tests/vm/driver/live_device.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kShmem = UBLK_F_SHMEM_ZC;
constexpr size_t kPages = 16;
constexpr std::chrono::milliseconds kShort{200};
constexpr std::byte kPoison{0x99};

// A file in memory that the server and its client map, each for itself.
class TwoViews {
 public:
  explicit TwoViews(size_t bytes, unsigned flags = 0)
      : bytes_(bytes), fd_(memfd_create("shared", MFD_CLOEXEC | flags)) {
    if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) return;
    server_ = Map();
    client_ = Map();
  }
  ~TwoViews() {
    if (server_ != MAP_FAILED) munmap(server_, bytes_);
    if (client_ != MAP_FAILED) munmap(client_, bytes_);
    close(fd_);
  }
  TwoViews(const TwoViews&) = delete;
  TwoViews& operator=(const TwoViews&) = delete;

  bool works() const { return server_ != MAP_FAILED && client_ != MAP_FAILED; }
  std::byte* server() const { return static_cast<std::byte*>(server_); }
  std::byte* client(size_t page = 0) const {
    return static_cast<std::byte*>(client_) + page * kPage;
  }
  size_t bytes() const { return bytes_; }
  int fd() const { return fd_; }

 private:
  void* Map() const {
    return mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, 0);
  }

  const size_t bytes_;
  const int fd_;
  void* server_ = MAP_FAILED;
  void* client_ = MAP_FAILED;
};

// What the server was told about where the data of a request is.
struct Place {
  bool shared = false;
  uint32_t index = 0;
  uint64_t offset = 0;
  uint32_t bytes = 0;
  bool operator==(const Place&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Place& place) {
  return out << (place.shared ? "shared" : "copied") << " buffer " << place.index << " offset "
             << place.offset << " bytes " << place.bytes;
}

Place InBuffer(uint32_t index, uint64_t offset, uint32_t bytes) {
  return {.shared = true, .index = index, .offset = offset, .bytes = bytes};
}

Place Copied(uint32_t bytes) { return {.bytes = bytes}; }

// Pages that are pinned for long, by anybody.
int64_t PinnedPages() {
  // Each processor counts for itself until it is asked.
  std::string nothing;
  std::getline(std::ifstream("/proc/sys/vm/stat_refresh"), nothing);
  std::ifstream file("/proc/vmstat");
  std::string name;
  int64_t value = 0;
  int64_t pinned = 0;
  while (file >> name >> value) {
    if (name == "nr_foll_pin_acquired") pinned += value;
    if (name == "nr_foll_pin_released") pinned -= value;
  }
  return pinned;
}

int Register(Control& control, uint32_t id, const void* addr, uint64_t bytes, uint32_t flags = 0) {
  const ublk_shmem_buf_reg reg = {
      .addr = reinterpret_cast<uintptr_t>(addr), .len = bytes, .flags = flags, .reserved = 0};
  return control.Run(UBLK_U_CMD_REG_BUF, {.dev_id = id, .len = sizeof(reg), .addr = &reg});
}

int Unregister(Control& control, uint32_t id, uint64_t index) {
  return control.Run(UBLK_U_CMD_UNREG_BUF, {.dev_id = id, .data = index});
}

class Shmem : public testing::Test {
 protected:
  void SetUp() override {
    if ((Control().Features() & kShmem) == 0) GTEST_SKIP() << "the driver has no SHMEM_ZC";
    // Less than none is what is seen while somebody's direct I/O ends.
    ASSERT_TRUE(Eventually([&] { return (pinned_before_ = PinnedPages()) >= 0; }));
  }
  void Start(uint64_t more_flags = 0) {
    const Geometry geometry = {.queues = 1, .depth = 8, .flags = kShmem | more_flags};
    ram_ = std::make_unique<SharedMemory>(geometry.bytes);
    live_ = std::make_unique<LiveDevice>(geometry, KeepIf(&keep_, ServerHandler()));
    disk_ = live_->fd;
  }
  void TearDown() override {
    live_.reset();
    // With direct I/O no page of a client stays pinned either.
    EXPECT_TRUE(Eventually([&] { return PinnedPages() <= pinned_before_; }))
        << "pages pinned before: " << pinned_before_ << ", now: " << PinnedPages();
  }
  // Takes the data from where it is, and leaves poison where it is not.
  Handler ServerHandler() {
    return [this](const Request& request) -> std::optional<int> {
      Request where = request;
      Place place = Copied(static_cast<uint32_t>(request.bytes()));
      if ((request.desc->op_flags & UBLK_IO_F_SHMEM_ZC) != 0) {
        place = InBuffer(ublk_shmem_zc_index(request.desc->addr),
                         ublk_shmem_zc_offset(request.desc->addr), place.bytes);
        if (place.index >= buffers_.size()) return -EIO;
        where.buffer = buffers_[place.index] + place.offset;
        if (request.op() == UBLK_IO_OP_WRITE &&
            std::memcmp(request.buffer, where.buffer, kSectorBytes) == 0) {
          ++copied_too_;
        }
      }
      place_ = place;
      const std::optional<int> result = RamHandler(ram_->data())(where);
      std::memset(request.buffer, static_cast<int>(kPoison), place.shared ? kPage : 0);
      if (!place.shared && request.op() == UBLK_IO_OP_WRITE) {
        std::memset(request.buffer, static_cast<int>(kPoison), request.bytes());
      }
      return result;
    };
  }
  int Add(const TwoViews& memory, uint32_t flags = 0) {
    const int index = Register(live_->control, live_->id(), memory.server(), memory.bytes(), flags);
    EXPECT_GE(index, 0) << "REG_BUF failed";
    if (index >= 0) {
      buffers_.resize(std::max(buffers_.size(), static_cast<size_t>(index) + 1));
      buffers_[static_cast<size_t>(index)] = memory.server();
    }
    return index;
  }
  // What the server was told of a write, whose data must have arrived.
  Place WriteFrom(std::byte* memory, size_t bytes) {
    FillPattern(memory, bytes, ++seed_);
    EXPECT_EQ(WriteAt(disk_, memory, bytes, 0), static_cast<int>(bytes));
    EXPECT_TRUE(HoldsPattern(ram_->data(), bytes, seed_)) << "the server got other data";
    return place_;
  }
  Place ReadInto(std::byte* memory, size_t bytes) {
    FillPattern(ram_->data(), bytes, ++seed_);
    std::memset(memory, 0, bytes);
    EXPECT_EQ(ReadAt(disk_, memory, bytes, 0), static_cast<int>(bytes));
    EXPECT_TRUE(HoldsPattern(memory, bytes, seed_)) << "the client got other data";
    return place_;
  }
  Place WriteVector(std::vector<iovec> parts) {
    size_t bytes = 0;
    for (const iovec& part : parts) {
      FillPattern(static_cast<std::byte*>(part.iov_base), part.iov_len, ++seed_);
      bytes += part.iov_len;
    }
    EXPECT_EQ(pwritev(disk_, parts.data(), static_cast<int>(parts.size()), 0), ssize_t(bytes));
    size_t at = 0;
    for (const iovec& part : parts) {
      EXPECT_EQ(std::memcmp(ram_->data() + at, part.iov_base, part.iov_len), 0);
      at += part.iov_len;
    }
    return place_;
  }

  std::unique_ptr<SharedMemory> ram_;
  std::unique_ptr<LiveDevice> live_;
  int disk_ = -1;
  std::atomic<bool> keep_ = false;
  std::vector<std::byte*> buffers_;
  Place place_;
  std::atomic<int> copied_too_ = 0;

 private:
  uint32_t seed_ = 0;
  int64_t pinned_before_ = 0;
};

TEST_F(Shmem, DataInRegisteredMemoryIsNotCopied_R76) {
  TwoViews memory(kPages * kPage);
  Start();
  ASSERT_EQ(Add(memory), 0);
  for (const size_t page : {0, 1, 7, 15}) {
    EXPECT_EQ(WriteFrom(memory.client(page), kPage), InBuffer(0, page * kPage, kPage));
    EXPECT_EQ(ReadInto(memory.client(page), kPage), InBuffer(0, page * kPage, kPage));
  }
  EXPECT_EQ(WriteFrom(memory.client(3) + 512, 1536), InBuffer(0, 3 * kPage + 512, 1536))
      << "a part of a page";
  EXPECT_EQ(WriteFrom(memory.client(2) + 2048, 2 * kPage), InBuffer(0, 2 * kPage + 2048, 2 * kPage))
      << "over pages";
  EXPECT_EQ(WriteFrom(memory.client(), kPages * kPage), InBuffer(0, 0, kPages * kPage));
  EXPECT_EQ(ReadInto(memory.client(), kPages * kPage), InBuffer(0, 0, kPages * kPage));
  EXPECT_EQ(copied_too_, 0) << "requests that were copied into the server's buffer nevertheless";
}

TEST_F(Shmem, UnregisteredMemoryIsCopied_R76) {
  TwoViews memory(kPages * kPage);
  const PageBuffer other(kPages * kPage);
  Start();
  EXPECT_EQ(WriteFrom(memory.client(), kPage), Copied(kPage)) << "nothing is registered yet";
  ASSERT_EQ(Add(memory), 0);
  EXPECT_EQ(WriteFrom(other.data(), kPages * kPage), Copied(kPages * kPage));
  EXPECT_EQ(ReadInto(other.data(), kPages * kPage), Copied(kPages * kPage));
  EXPECT_EQ(WriteFrom(memory.client(), kPage), InBuffer(0, 0, kPage));
  ASSERT_EQ(Unregister(live_->control, live_->id(), 0), 0);
  EXPECT_EQ(WriteFrom(memory.client(), kPage), Copied(kPage)) << "unregistered again";
  EXPECT_EQ(ReadInto(memory.client(), kPage), Copied(kPage)) << "unregistered again";
}

TEST_F(Shmem, ARequestMustLieInOneBufferInOrder_R76) {
  TwoViews memory(kPages * kPage);
  TwoViews second(kPages * kPage);
  const PageBuffer other(kPage);
  Start();
  ASSERT_EQ(Add(memory), 0);
  ASSERT_EQ(Add(second), 1);
  const iovec first_page = {memory.client(4), kPage};
  EXPECT_EQ(WriteVector({first_page, {memory.client(5), kPage}}),
            InBuffer(0, 4 * kPage, 2 * kPage));
  EXPECT_EQ(WriteVector({first_page, {other.data(), kPage}}), Copied(2 * kPage)) << "half of it";
  EXPECT_EQ(WriteVector({{other.data(), kPage}, first_page}), Copied(2 * kPage)) << "half of it";
  EXPECT_EQ(WriteVector({first_page, {memory.client(6), kPage}}), Copied(2 * kPage)) << "a gap";
  EXPECT_EQ(WriteVector({first_page, {memory.client(3), kPage}}), Copied(2 * kPage)) << "backwards";
  EXPECT_EQ(WriteVector({first_page, first_page}), Copied(2 * kPage)) << "the same page twice";
  EXPECT_EQ(WriteVector({first_page, {second.client(5), kPage}}), Copied(2 * kPage))
      << "two buffers";
}

TEST_F(Shmem, BuffersAreToldApartByTheirIndex_R76) {
  TwoViews memory(kPages * kPage);
  TwoViews second(4 * kPage);
  Start();
  ASSERT_EQ(Add(memory), 0);
  ASSERT_EQ(Add(second), 1);
  EXPECT_EQ(WriteFrom(second.client(1), kPage), InBuffer(1, kPage, kPage));
  EXPECT_EQ(ReadInto(memory.client(9), kPage), InBuffer(0, 9 * kPage, kPage));
  ASSERT_EQ(Unregister(live_->control, live_->id(), 0), 0);
  EXPECT_EQ(WriteFrom(memory.client(), kPage), Copied(kPage));
  EXPECT_EQ(WriteFrom(second.client(), kPage), InBuffer(1, 0, kPage));
  EXPECT_EQ(Add(memory), 0) << "a free index is given again";
  EXPECT_EQ(WriteFrom(memory.client(), kPage), InBuffer(0, 0, kPage));
}

TEST_F(Shmem, ABufferOfTheServerThatIsReadOnlyIsNotReadInto_R76) {
  TwoViews memory(kPages * kPage);
  Start();
  auto* read_only = static_cast<std::byte*>(
      mmap(nullptr, memory.bytes(), PROT_READ, MAP_SHARED | MAP_POPULATE, memory.fd(), 0));
  EXPECT_EQ(Register(live_->control, live_->id(), read_only, memory.bytes()), -EFAULT)
      << "the server itself may not write there";
  ASSERT_EQ(
      Register(live_->control, live_->id(), read_only, memory.bytes(), UBLK_SHMEM_BUF_READ_ONLY),
      0);
  buffers_ = {read_only};
  EXPECT_EQ(WriteFrom(memory.client(2), kPage), InBuffer(0, 2 * kPage, kPage));
  EXPECT_EQ(ReadInto(memory.client(2), kPage), Copied(kPage));
  ASSERT_EQ(Unregister(live_->control, live_->id(), 0), 0);
  munmap(read_only, memory.bytes());
}

TEST_F(Shmem, MemoryIsRegisteredOnce_R76) {
  TwoViews memory(kPages * kPage);
  Start();
  ASSERT_EQ(Add(memory), 0);
  const auto again = [&](const void* addr, size_t pages) {
    return Register(live_->control, live_->id(), addr, pages * kPage);
  };
  EXPECT_EQ(again(memory.server(), kPages), -EEXIST);
  EXPECT_EQ(again(memory.client(kPages - 1), 1), -EEXIST) << "another address, the same page";
  TwoViews second(4 * kPage);
  // The same page at both ends of one buffer.
  auto* twice = static_cast<std::byte*>(
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  for (int i = 0; i < 2; ++i) {
    ASSERT_NE(mmap(twice + size_t(i) * kPage, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                   second.fd(), 0),
              MAP_FAILED);
  }
  EXPECT_EQ(again(twice, 2), -EEXIST);
  munmap(twice, 2 * kPage);
  EXPECT_EQ(Add(second), 1) << "what was refused must leave no trace";
  EXPECT_EQ(WriteFrom(second.client(), kPage), InBuffer(1, 0, kPage));
}

TEST_F(Shmem, NonsenseIsRefused_R76) {
  TwoViews memory(kPages * kPage);
  Start();
  Control& control = live_->control;
  const uint32_t id = live_->id();
  EXPECT_EQ(Register(control, id, memory.server() + 512, kPage), -EINVAL) << "crooked address";
  EXPECT_EQ(Register(control, id, memory.server(), kPage + 512), -EINVAL) << "crooked length";
  EXPECT_EQ(Register(control, id, memory.server(), 0), -EINVAL) << "nothing";
  EXPECT_EQ(Register(control, id, memory.server(), (uint64_t{4} << 30) + kPage), -EINVAL);
  EXPECT_EQ(Register(control, id, memory.server(), kPage, 2), -EINVAL) << "unknown flag";
  EXPECT_EQ(Register(control, id, nullptr, kPage), -EFAULT) << "no memory";
  EXPECT_EQ(Register(control, id, memory.server() + memory.bytes() - kPage, 1 << 30), -EFAULT)
      << "memory that ends";
  ublk_shmem_buf_reg reg = {.addr = reinterpret_cast<uintptr_t>(memory.server()),
                            .len = kPage,
                            .flags = 0,
                            .reserved = 1};
  EXPECT_EQ(control.Run(UBLK_U_CMD_REG_BUF, {.dev_id = id, .len = sizeof(reg), .addr = &reg}),
            -EINVAL)
      << "reserved field";
  EXPECT_EQ(control.Run(UBLK_U_CMD_REG_BUF,
                        {.dev_id = id, .len = sizeof(reg), .addr = reinterpret_cast<void*>(8)}),
            -EFAULT);
  EXPECT_LT(control.Run(UBLK_U_CMD_REG_BUF, {.dev_id = id}), 0) << "no argument";
  EXPECT_EQ(Unregister(control, id, 0), -ENOENT);
  EXPECT_EQ(Unregister(control, id, UINT64_MAX), -ENOENT);
  EXPECT_EQ(Unregister(control, id, 1 << 16), -ENOENT);
  ASSERT_EQ(Add(memory), 0) << "none of these may have taken an index";
  EXPECT_EQ(Unregister(control, id, uint64_t{1} << 32), -ENOENT) << "not index 0";
  EXPECT_EQ(Unregister(control, id, 0), 0);
  EXPECT_EQ(Unregister(control, id, 0), -ENOENT) << "twice";
}

TEST_F(Shmem, NeedsItsFlag_R76) {
  TwoViews memory(kPage);
  Control control;
  const Device device(control, {});
  EXPECT_EQ(Register(control, device.id(), memory.server(), kPage), -EOPNOTSUPP);
  EXPECT_EQ(Unregister(control, device.id(), 0), -EOPNOTSUPP);
}

TEST_F(Shmem, UnregisteringWaitsForTheRequestsOfTheBuffer_R76) {
  TwoViews memory(kPages * kPage);
  Start();
  ASSERT_EQ(Add(memory), 0);
  FillPattern(memory.client(), kPage, 77);
  keep_ = true;
  auto io =
      std::async(std::launch::async, [&] { return WriteAt(disk_, memory.client(), kPage, 0); });
  const uint16_t tag = live_->KeptTag().value_or(0);
  keep_ = false;
  Control other;
  other.Send(UBLK_U_CMD_UNREG_BUF, {.dev_id = live_->id(), .data = 0});
  EXPECT_EQ(other.Finish(kShort), std::nullopt) << "the server still works with the memory";
  EXPECT_EQ(WriteFrom(memory.client(4), kPage), Copied(kPage)) << "new requests are copied";
  live_->server->InThread(
      0, [&](QueueServer& q) { EXPECT_EQ(q.Desc(tag).addr, ublk_shmem_zc_addr(0, 0)); });
  live_->Commit(tag, 4096);
  EXPECT_EQ(io.get(), 4096);
  EXPECT_EQ(other.Finish(std::chrono::seconds(10)), 0);
}

TEST_F(Shmem, AnInterruptedUnregisteringIsFinishedByItself_R76) {
  TwoViews memory(kPages * kPage);
  Start();
  ASSERT_EQ(Add(memory), 0);
  keep_ = true;
  auto io =
      std::async(std::launch::async, [&] { return WriteAt(disk_, memory.client(), kPage, 0); });
  const uint16_t tag = live_->KeptTag().value_or(0);
  keep_ = false;
  Control other;
  other.Send(UBLK_U_CMD_UNREG_BUF, {.dev_id = live_->id(), .data = 0});
  EXPECT_EQ(other.Finish(kShort), std::nullopt);
  io_uring_sqe* cancel = io_uring_get_sqe(other.ring().get());
  io_uring_prep_cancel64(cancel, 0, 0);
  const int one = other.Finish(std::chrono::seconds(10)).value_or(1);
  const int two = other.Finish(std::chrono::seconds(10)).value_or(1);
  EXPECT_TRUE(one == -EINTR || two == -EINTR) << "results " << one << " and " << two;

  EXPECT_EQ(Unregister(other, live_->id(), 0), -ENOENT) << "the buffer is unregistered already";
  TwoViews second(kPage);
  EXPECT_EQ(Add(second), 1) << "its index is taken as long as the request is there";
  live_->Commit(tag, 4096);
  EXPECT_EQ(io.get(), 4096);
  EXPECT_EQ(Add(memory), 0) << "and free afterwards";
}

TEST_F(Shmem, BuffersGoWithTheirServer_R76) {
  TwoViews memory(kPages * kPage);
  Start();
  ASSERT_EQ(Add(memory), 0);
  EXPECT_EQ(WriteFrom(memory.client(), kPage), InBuffer(0, 0, kPage));
  live_->Stop();
  live_->Serve(ServerHandler());
  disk_ = live_->fd;
  EXPECT_EQ(WriteFrom(memory.client(), kPage), Copied(kPage)) << "the next server has other memory";
  EXPECT_EQ(Unregister(live_->control, live_->id(), 0), -ENOENT);
  EXPECT_EQ(Add(memory), 0);
}

TEST_F(Shmem, AKilledServerReleasesItsMemory_R76) {
  TwoViews memory(kPages * kPage);
  SharedMemory shared(kPage);
  auto* registered = new (shared.data()) std::atomic<int>(-1);
  auto* kept = new (shared.data() + 64) std::atomic<int>(0);
  Control control;
  Device device(control, {.depth = 8, .flags = kShmem | UBLK_F_NO_AUTO_PART_SCAN});
  ServerProcess process([&] {
    Server server(device.id(), device.geometry(), [kept](const Request& request) {
      *kept = (request.desc->op_flags & UBLK_IO_F_SHMEM_ZC) != 0 ? 1 : 2;
      return std::nullopt;
    });
    Control inner;
    *registered = Register(inner, device.id(), memory.server(), memory.bytes());
    server.Close();
  });
  ASSERT_EQ(control.Start(device.id(), process.pid()), 0);
  ASSERT_TRUE(Eventually([&] { return *registered == 0; }));
  const int fd = open(device.disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  auto io = std::async(std::launch::async, [&] { return WriteAt(fd, memory.client(), kPage, 0); });
  EXPECT_TRUE(Eventually([&] { return *kept != 0; }));
  EXPECT_EQ(*kept, 1) << "the request must refer to the memory when the server dies";
  process.Kill();
  EXPECT_EQ(io.get(), -EIO);
  close(fd);
  EXPECT_EQ(device.Delete(), 0);
}

TEST_F(Shmem, ShortResultsAreContinuedInTheBuffer_R48) {
  TwoViews memory(kPages * kPage);
  const Geometry geometry = {.queues = 1, .depth = 8, .flags = kShmem};
  ram_ = std::make_unique<SharedMemory>(geometry.bytes);
  live_ = std::make_unique<LiveDevice>(geometry, [&](const Request& request) -> std::optional<int> {
    if ((request.desc->op_flags & UBLK_IO_F_SHMEM_ZC) == 0) return -EIO;
    std::byte* data = memory.server() + ublk_shmem_zc_offset(request.desc->addr);
    std::byte* place = ram_->data() + request.offset();
    const size_t bytes = std::min<size_t>(request.bytes(), 1024);
    const bool write = request.op() == UBLK_IO_OP_WRITE;
    std::memcpy(write ? place : data, write ? data : place, bytes);
    return static_cast<int>(bytes);
  });
  ASSERT_EQ(Add(memory), 0);
  disk_ = live_->fd;
  WriteFrom(memory.client(1), 4 * kPage);
  ReadInto(memory.client(8), 4 * kPage);
}

TEST_F(Shmem, WorksWithoutBuffersForTags) {
  TwoViews memory(kPages * kPage);
  const Geometry geometry = {.queues = 1, .depth = 8, .flags = kShmem | UBLK_F_USER_COPY};
  ram_ = std::make_unique<SharedMemory>(geometry.bytes);
  live_ = std::make_unique<LiveDevice>(geometry, [&](const Request& request) -> std::optional<int> {
    if ((request.desc->op_flags & UBLK_IO_F_SHMEM_ZC) == 0) return -EIO;
    Request where = request;
    where.buffer = memory.server() + ublk_shmem_zc_offset(request.desc->addr);
    return RamHandler(ram_->data())(where);
  });
  ASSERT_EQ(Add(memory), 0);
  disk_ = live_->fd;
  WriteFrom(memory.client(1), 4 * kPage);
  ReadInto(memory.client(8), 4 * kPage);
}

TEST_F(Shmem, LargePagesWorkToo) {
  constexpr size_t kHuge = 2 << 20;
  std::ofstream("/proc/sys/vm/nr_hugepages") << 2 << std::endl;
  {
    const TwoViews memory(kHuge, MFD_HUGETLB);
    if (!memory.works()) GTEST_SKIP() << "no large pages to be had";
    Start();
    ASSERT_EQ(Add(memory), 0);
    EXPECT_EQ(WriteFrom(memory.client(), 256 << 10), InBuffer(0, 0, 256 << 10));
    EXPECT_EQ(ReadInto(memory.client(300) + 512, kPage), InBuffer(0, 300 * kPage + 512, kPage));
    EXPECT_EQ(WriteFrom(memory.client(511), kPage), InBuffer(0, 511 * kPage, kPage));
    live_.reset();
  }
  std::ofstream("/proc/sys/vm/nr_hugepages") << 0 << std::endl;
}

// The table changes under load.
TEST_F(Shmem, RegisteringUnderLoadHarmsNoData_R76) {
  TwoViews memory(kPages * kPage);
  const Geometry geometry = {.queues = 4, .depth = 8, .flags = kShmem};
  ram_ = std::make_unique<SharedMemory>(geometry.bytes);
  live_ = std::make_unique<LiveDevice>(geometry, [&](const Request& request) -> std::optional<int> {
    Request where = request;
    if ((request.desc->op_flags & UBLK_IO_F_SHMEM_ZC) != 0) {
      where.buffer = memory.server() + ublk_shmem_zc_offset(request.desc->addr);
    }
    return RamHandler(ram_->data())(where);
  });
  std::atomic<bool> stop = false;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> users;
  for (uint32_t t = 0; t < 2; ++t) {
    users.emplace_back([&, t] {
      std::byte* mine = memory.client(t * 4);
      for (uint32_t round = 0; !stop; ++round) {
        FillPattern(mine, kPage, round);
        if (WriteAt(live_->fd, mine, kPage, off_t(t * kPage)) != int{kPage}) ++wrong;
        if (ReadAt(live_->fd, mine + kPage, kPage, off_t(t * kPage)) != int{kPage}) ++wrong;
        if (!HoldsPattern(mine + kPage, kPage, round)) ++wrong;
      }
    });
  }
  for (int round = 0; round < 15; ++round) {
    const int index = Register(live_->control, live_->id(), memory.server(), memory.bytes());
    EXPECT_GE(index, 0);
    EXPECT_EQ(Unregister(live_->control, live_->id(), static_cast<uint64_t>(index)), 0);
  }
  stop = true;
  for (std::thread& user : users) user.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace ublkd::driver_test
