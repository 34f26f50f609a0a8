// SPDX-License-Identifier: Apache-2.0
//
// /dev/ublk-control: what is accepted, what is refused and how, and what is told.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

constexpr uint32_t kMaxId = (1U << 20) - 1;

TEST(Control, PlainRingIsRefused_R01) {
  Control control(0);
  uint64_t features = 0;
  EXPECT_EQ(control.Run(UBLK_U_CMD_GET_FEATURES, {.len = 8, .addr = &features}), -EINVAL)
      << "a 64-byte SQE holds only half of a control command";
}

// Newer kernels let a driver that knows nothing of polling be used from such a ring.
TEST(Control, PolledRingDoesNotHang_R44) {
  Control control(IORING_SETUP_SQE128 | IORING_SETUP_IOPOLL);
  uint64_t features = 0;
  EXPECT_NE(control.Run(UBLK_U_CMD_GET_FEATURES, {.len = 8, .addr = &features}), -ETIME);
}

TEST(Control, FeaturesAreWhatAddDevGrants_R07) {
  Control control;
  const uint64_t features = control.Features();
  EXPECT_NE(features & UBLK_F_CMD_IOCTL_ENCODE, 0U);
  EXPECT_EQ(features >> 21, 0U) << "a feature bit that nobody knows";
  ublksrv_ctrl_dev_info info = InfoOf(
      {.flags = ~uint64_t{0} & ~(UBLK_F_UNPRIVILEGED_DEV | UBLK_F_USER_RECOVERY_REISSUE |
                                 UBLK_F_USER_RECOVERY_FAIL_IO | UBLK_F_ZONED | UBLK_F_USER_COPY |
                                 UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG | UBLK_F_BATCH_IO |
                                 UBLK_F_INTEGRITY | UBLK_F_IO_DESC_SIZE)});
  ASSERT_EQ(control.Add(info), 0);
  EXPECT_EQ(info.flags & ~features, 0U) << "a flag was granted that is no feature";
  EXPECT_EQ(control.Delete(info.dev_id), 0);

  uint64_t answer = 0;
  for (const uint16_t len : {0, 4, 7, 9, 16}) {
    EXPECT_EQ(control.Run(UBLK_U_CMD_GET_FEATURES, {.len = len, .addr = &answer}), -EINVAL)
        << "length " << len;
  }
  EXPECT_EQ(control.Run(UBLK_U_CMD_GET_FEATURES, {.len = 8}), -EINVAL);
}

TEST(Control, RecoveryFlagsMakeSenseTogether_R06) {
  if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers differ";
  Control control;
  constexpr uint64_t kR = UBLK_F_USER_RECOVERY, kReissue = UBLK_F_USER_RECOVERY_REISSUE,
                     kFailIo = UBLK_F_USER_RECOVERY_FAIL_IO, kQuiesce = UBLK_F_QUIESCE;
  const std::vector<uint64_t> good = {0,
                                      kR,
                                      kR | kReissue,
                                      kR | kFailIo,
                                      kR | kQuiesce,
                                      kR | kReissue | kQuiesce,
                                      kR | kFailIo | kQuiesce};
  for (unsigned bits = 0; bits < 16; ++bits) {
    const uint64_t flags = ((bits & 1) != 0 ? kR : 0) | ((bits & 2) != 0 ? kReissue : 0) |
                           ((bits & 4) != 0 ? kFailIo : 0) | ((bits & 8) != 0 ? kQuiesce : 0);
    ublksrv_ctrl_dev_info info = InfoOf({.flags = flags});
    const bool ok = std::find(good.begin(), good.end(), flags) != good.end();
    const int err = control.Add(info);
    EXPECT_EQ(err, ok ? 0 : -EINVAL) << "flags " << std::hex << flags;
    if (err != 0) continue;
    EXPECT_EQ(info.flags & flags, flags) << "not all were granted";
    EXPECT_EQ(control.Delete(info.dev_id), 0);
  }
}

TEST(Control, DescriptorsAreOf24To256Bytes_R31) {
  Control control;
  if ((control.Features() & UBLK_F_IO_DESC_SIZE) == 0) GTEST_SKIP() << "no such feature";
  for (int bytes = 0; bytes < 300; bytes += bytes % 8 == 0 ? 1 : 7) {
    const bool ok = bytes >= 24 && bytes <= 256 && bytes % 8 == 0;
    ublksrv_ctrl_dev_info info =
        InfoOf({.flags = UBLK_F_IO_DESC_SIZE, .desc_bytes = static_cast<uint16_t>(bytes)});
    const int err = control.Add(info);
    EXPECT_EQ(err, ok ? 0 : -EINVAL) << bytes << " bytes";
    if (err != 0) continue;
    EXPECT_EQ(info.io_desc_size, bytes);
    EXPECT_EQ(control.Delete(info.dev_id), 0);
  }
  ublksrv_ctrl_dev_info info = InfoOf({.desc_bytes = 1000});
  EXPECT_EQ(control.Add(info), 0) << "without the flag the size is not looked at";
  EXPECT_EQ(info.io_desc_size, sizeof(ublksrv_io_desc)) << "but told";
  EXPECT_EQ(control.Delete(info.dev_id), 0);
}

TEST(Control, OldOpcodesWorkToo) {
  Control control;
  ublksrv_ctrl_dev_info info = InfoOf({});
  ASSERT_EQ(control.Run(UBLK_CMD_ADD_DEV, {.dev_id = kAnyId, .len = sizeof(info), .addr = &info}),
            0);
  ublksrv_ctrl_dev_info got = {};
  EXPECT_EQ(
      control.Run(UBLK_CMD_GET_DEV_INFO, {.dev_id = info.dev_id, .len = sizeof(got), .addr = &got}),
      0);
  EXPECT_EQ(got.dev_id, info.dev_id);
  EXPECT_EQ(control.Run(UBLK_CMD_DEL_DEV, {.dev_id = info.dev_id}), 0);
}

TEST(Control, UnknownOpcodesAreRefused) {
  Control control;
  for (const uint32_t op : {0U, 0x03U, 0x7fU, 0xffU, uint32_t{_IOR('u', 0x55, ublksrv_ctrl_cmd)},
                            uint32_t{_IOR('x', 0x02, ublksrv_ctrl_cmd)}, 0xffffffffU}) {
    EXPECT_LT(control.Run(op, {.dev_id = 0, .len = 64}), 0) << "opcode " << op;
  }
}

TEST(Control, BadDevicesAreRefused_R04) {
  Control control;
  const auto add = [&](const std::function<void(ublksrv_ctrl_dev_info&)>& change) {
    ublksrv_ctrl_dev_info info = InfoOf({});
    change(info);
    const int err = control.Add(info);
    if (err == 0) control.Delete(info.dev_id);
    return err;
  };
  EXPECT_EQ(add([](auto& i) { i.queue_depth = 0; }), -EINVAL);
  EXPECT_EQ(add([](auto& i) { i.queue_depth = UBLK_MAX_QUEUE_DEPTH + 1; }), -EINVAL);
  EXPECT_EQ(add([](auto& i) { i.nr_hw_queues = 0; }), -EINVAL);
  EXPECT_EQ(add([](auto& i) { i.nr_hw_queues = UBLK_MAX_NR_QUEUES + 1; }), -EINVAL);
  EXPECT_EQ(add([](auto& i) { i.dev_id = kMaxId + 1; }), -EINVAL);

  ublksrv_ctrl_dev_info info = InfoOf({});
  info.dev_id = 5;
  EXPECT_EQ(control.Run(UBLK_U_CMD_ADD_DEV, {.dev_id = 6, .len = sizeof(info), .addr = &info}),
            -EINVAL)
      << "two different ids in one command";
  info.dev_id = kAnyId;
  EXPECT_EQ(control.Run(UBLK_U_CMD_ADD_DEV,
                        {.dev_id = kAnyId, .queue_id = 0, .len = sizeof(info), .addr = &info}),
            -EINVAL)
      << "a queue in a command that is not about a queue";
  EXPECT_EQ(control.Run(UBLK_U_CMD_ADD_DEV, {.dev_id = kAnyId, .len = 32, .addr = &info}), -EINVAL);
  EXPECT_EQ(control.Run(UBLK_U_CMD_ADD_DEV, {.dev_id = kAnyId, .len = 64}), -EINVAL);
  EXPECT_EQ(control.Run(UBLK_U_CMD_ADD_DEV,
                        {.dev_id = kAnyId, .len = 64, .addr = reinterpret_cast<void*>(8)}),
            -EFAULT);
}

TEST(Control, AnIdIsGivenOnceAndAgainAfterDelete_R04_R20) {
  Control control;
  for (int round = 0; round < 20; ++round) {
    ublksrv_ctrl_dev_info info = InfoOf({}, 777);
    ASSERT_EQ(control.Add(info), 0) << "round " << round;
    ublksrv_ctrl_dev_info again = InfoOf({}, 777);
    EXPECT_EQ(control.Add(again), -EEXIST);
    ASSERT_EQ(control.Delete(777), 0);
    EXPECT_FALSE(PathExists(CharPath(777)));
  }
  EXPECT_EQ(control.Delete(777), -ENODEV);
}

TEST(Control, DeepestQueuesAndMostQueuesWork_R14_R04) {
  Control control;
  ublksrv_ctrl_dev_info info =
      InfoOf({.queues = UBLK_MAX_NR_QUEUES, .depth = UBLK_MAX_QUEUE_DEPTH});
  ASSERT_EQ(control.Add(info), 0);
  EXPECT_EQ(info.nr_hw_queues, sysconf(_SC_NPROCESSORS_CONF)) << "as many queues as CPUs";
  EXPECT_EQ(info.queue_depth, UBLK_MAX_QUEUE_DEPTH);
  EXPECT_EQ(control.Delete(info.dev_id), 0);
}

TEST(Control, TheDriversFieldsAreTheDrivers_R05) {
  Control control;
  ublksrv_ctrl_dev_info info = InfoOf({});
  info.state = UBLK_S_DEV_LIVE;
  info.ublksrv_pid = 1;
  info.owner_uid = 12345;
  info.max_io_buf_bytes = (64 << 10) + 17;
  ASSERT_EQ(control.Add(info), 0);
  ublksrv_ctrl_dev_info got = {};
  ASSERT_EQ(control.GetInfo(info.dev_id, got), 0);
  EXPECT_EQ(got.state, UBLK_S_DEV_DEAD) << "a device is not live because its maker says so";
  EXPECT_EQ(got.ublksrv_pid, -1);
  EXPECT_EQ(got.owner_uid, 0U);
  EXPECT_EQ(got.max_io_buf_bytes, 64U << 10) << "rounded down to pages";
  EXPECT_EQ(control.Stop(info.dev_id), 0);
  EXPECT_EQ(control.Delete(info.dev_id), 0);
}

TEST(Control, OrdinaryUsersAreRefused_R08) {
  Control root;
  Device device(root, {});
  ASSERT_EQ(device.error(), 0);
  const uint32_t id = device.id();
  SharedMemory shared(4096);
  int* const results = shared.as<int>();
  const int fd = root.fd();
  ServerProcess user([&, fd] {
    if (setresgid(1000, 1000, 1000) != 0 || setresuid(1000, 1000, 1000) != 0) _exit(1);
    Ring ring(8, IORING_SETUP_SQE128);
    ublksrv_ctrl_dev_info info = InfoOf({});
    int n = 0;
    for (const uint32_t op :
         {UBLK_U_CMD_ADD_DEV, UBLK_U_CMD_DEL_DEV, UBLK_U_CMD_STOP_DEV, UBLK_U_CMD_GET_DEV_INFO}) {
      io_uring_sqe* sqe = ring.Command(fd, static_cast<uint32_t>(op));
      ublksrv_ctrl_cmd command = {};
      command.dev_id = op == UBLK_U_CMD_ADD_DEV ? kAnyId : id;
      command.queue_id = kNoQueue;
      command.len = sizeof(info);
      command.addr = reinterpret_cast<uintptr_t>(&info);
      std::memcpy(sqe->cmd, &command, sizeof(command));
      results[n++] = ring.Finish().value_or(1);
    }
  });
  ASSERT_EQ(user.Wait(), 0);
  for (int n = 0; n < 4; ++n) EXPECT_EQ(results[n], -EPERM) << "command " << n;
}

TEST(Control, AffinityCoversEveryCpuOnce_R25_R75) {
  Control control;
  Device device(control, {.queues = 4});
  ASSERT_EQ(device.error(), 0);
  int cpus = 0;
  for (uint64_t queue = 0; queue < device.info().nr_hw_queues; ++queue) {
    unsigned char mask[256];
    std::memset(mask, 0xff, sizeof(mask));
    ASSERT_EQ(
        control.Run(UBLK_U_CMD_GET_QUEUE_AFFINITY,
                    {.dev_id = device.id(), .len = sizeof(mask), .addr = mask, .data = queue}),
        0);
    int here = 0;
    for (const unsigned char byte : mask) here += __builtin_popcount(byte);
    EXPECT_GT(here, 0) << "queue " << queue << " has no CPU";
    EXPECT_EQ(mask[255], 0) << "the rest of the buffer must be cleared";
    cpus += here;
  }
  EXPECT_EQ(cpus, sysconf(_SC_NPROCESSORS_CONF));
  unsigned char mask[16];
  const auto refused = [&](uint16_t len, uint64_t queue) {
    return control.Run(UBLK_U_CMD_GET_QUEUE_AFFINITY,
                       {.dev_id = device.id(), .len = len, .addr = mask, .data = queue});
  };
  EXPECT_EQ(refused(0, 0), -EINVAL);
  EXPECT_EQ(refused(7, 0), -EINVAL);
  EXPECT_EQ(refused(9, 0), -EINVAL);
  EXPECT_EQ(refused(8, 4096), -EINVAL);
}

TEST(Params, GoodOnesAreReadBack_R13) {
  Control control;
  const Geometry geometry = {.attrs = UBLK_ATTR_VOLATILE_CACHE};
  Device device(control, geometry);
  ASSERT_EQ(device.error(), 0);
  ublk_params got = {};
  ASSERT_EQ(control.GetParams(device.id(), got), 0);
  EXPECT_EQ(got.basic.dev_sectors, geometry.bytes / 512);
  EXPECT_EQ(got.basic.attrs, uint32_t{UBLK_ATTR_VOLATILE_CACHE});
  EXPECT_NE(got.types & UBLK_PARAM_TYPE_DEVT, 0U);
  EXPECT_NE(got.devt.char_major, 0U);
  EXPECT_EQ(got.devt.disk_major, 0U) << "there is no disk yet";

  // An older program knows less of the structure.
  for (const uint16_t len : {64, 112}) {
    ublk_params old = {};
    old.len = len;
    old.types = UBLK_PARAM_TYPE_BASIC;
    old.seg.max_segment_size = 0xabcdef;
    ASSERT_EQ(control.Run(UBLK_U_CMD_GET_PARAMS, {.dev_id = device.id(), .len = len, .addr = &old}),
              0);
    EXPECT_EQ(old.len, len);
    EXPECT_EQ(old.basic.dev_sectors, geometry.bytes / 512);
    EXPECT_EQ(old.seg.max_segment_size, 0xabcdefU) << "written past the caller's length";
  }
}

TEST(Params, BadOnesAreRefusedAndForgotten_R11_R12) {
  Control control;
  Device device(control, {});
  ASSERT_EQ(device.error(), 0);
  const auto set = [&](const std::function<void(ublk_params&)>& change) {
    ublk_params params = ParamsOf({});
    change(params);
    return control.SetParams(device.id(), params);
  };
  EXPECT_EQ(set([](auto&) {}), 0);
  EXPECT_EQ(set([](auto& p) { p.basic.logical_bs_shift = 8; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.basic.logical_bs_shift = 13; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.basic.logical_bs_shift = 255; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.basic.physical_bs_shift = 8; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.basic.max_sectors = 0; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.basic.max_sectors = 7; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.basic.max_sectors = 1025; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.discard.discard_granularity = 0; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.discard.max_discard_segments = 2; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.types |= UBLK_PARAM_TYPE_DEVT; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.types = 0; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.len = 0; }), -EINVAL);
  if (DriverIsOurs()) {
    EXPECT_EQ(set([](auto& p) { p.basic.physical_bs_shift = 29; }), -EINVAL);
    EXPECT_EQ(set([](auto& p) { p.basic.io_min_shift = 64; }), -EINVAL);
    EXPECT_EQ(set([](auto& p) { p.basic.io_opt_shift = 255; }), -EINVAL);
    EXPECT_EQ(set([](auto& p) { p.basic.dev_sectors = UINT64_MAX; }), -EINVAL);
    EXPECT_EQ(
        set([](auto& p) {
          p.types |= UBLK_PARAM_TYPE_SEGMENT;
          p.seg = {
              .seg_boundary_mask = 4094, .max_segment_size = 4096, .max_segments = 1, .pad = {}};
        }),
        -EINVAL);
    EXPECT_EQ(set([](auto& p) {
                p.types |= UBLK_PARAM_TYPE_DMA_ALIGN;
                p.dma.alignment = 6;
              }),
              -EINVAL);
    EXPECT_EQ(set([](auto& p) { p.basic.virt_boundary_mask = 4094; }), -EINVAL);
    EXPECT_EQ(set([](auto& p) {
                p.basic.logical_bs_shift = 12;
                p.basic.physical_bs_shift = 12;
                p.basic.chunk_sectors = 12;
              }),
              -EINVAL)
        << "a chunk that ends inside of a block";
  }
  ublk_params got = {};
  ASSERT_EQ(control.GetParams(device.id(), got), 0);
  EXPECT_EQ(got.basic.dev_sectors, 0U) << "after a bad set nothing of an old one may be left";
  Control starter;
  EXPECT_EQ(starter.Start(device.id(), getpid()), -EINVAL) << "no parameters, no disk";
}

// The block layer of 6.1 crashes when it finds nothing to split off.
TEST(Params, MemoryInWhichABlockIsInTwoPiecesIsRefused_R11) {
  if (!DriverIsOurs()) GTEST_SKIP() << "the kernel's own driver passes it on";
  constexpr size_t kBlock = 4096;
  Control control;
  Device device(control, {.block_shift = 12});
  ASSERT_EQ(device.error(), 0);
  ublk_params params = ParamsOf(device.geometry());
  params.types |= UBLK_PARAM_TYPE_SEGMENT;
  params.seg = {
      .seg_boundary_mask = UINT64_MAX, .max_segment_size = 64 << 10, .max_segments = 1, .pad = {}};
  ASSERT_EQ(control.SetParams(device.id(), params), 0);
  Server server(device.id(), device.geometry(),
                [](const Request& r) -> std::optional<int> { return static_cast<int>(r.bytes()); });
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  const int disk = open(device.disk().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  ASSERT_GE(disk, 0) << std::strerror(errno);
  alignas(4096) static char memory[2 * kBlock];
  EXPECT_EQ(pread(disk, memory + 512, kBlock, 0), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(pread(disk, memory, kBlock, 0), static_cast<ssize_t>(kBlock));
  close(disk);
  ASSERT_EQ(control.Stop(device.id()), 0);
}

TEST(Params, AreFixedOnceStarted_R11) {
  Control control;
  Device device(control, {});
  ASSERT_EQ(device.error(), 0);
  Server server(device.id(), {},
                [](const Request& r) -> std::optional<int> { return static_cast<int>(r.bytes()); });
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  EXPECT_EQ(control.SetParams(device.id(), ParamsOf({})), -EACCES);
  ublk_params got = {};
  ASSERT_EQ(control.GetParams(device.id(), got), 0);
  EXPECT_NE(got.devt.disk_major, 0U);
  EXPECT_EQ(control.Stop(device.id()), 0);
}

TEST(Start, OnlyTheServersPidIsAccepted_R15_R24) {
  if (!DriverIsOurs()) GTEST_SKIP() << "stock 6.12 takes any number";
  Control control;
  Device device(control, {});
  Server server(device.id(), {},
                [](const Request& r) -> std::optional<int> { return static_cast<int>(r.bytes()); });
  EXPECT_EQ(control.Start(device.id(), 0), -EINVAL);
  EXPECT_EQ(control.Start(device.id(), -5), -EINVAL);
  EXPECT_EQ(control.Start(device.id(), 1), -EINVAL);
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  EXPECT_EQ(control.Start(device.id(), getpid()), -EEXIST);
  ublksrv_ctrl_dev_info info = {};
  ASSERT_EQ(control.GetInfo(device.id(), info), 0);
  EXPECT_EQ(info.ublksrv_pid, getpid());
  EXPECT_EQ(info.state, UBLK_S_DEV_LIVE);
  EXPECT_EQ(control.Stop(device.id()), 0);
}

}  // namespace
}  // namespace ublkd::driver_test
