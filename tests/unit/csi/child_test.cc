// SPDX-License-Identifier: Apache-2.0
//
// Work that hangs in the kernel takes no thread and no second call with it.
#include "daemon/csi/child.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>

#include "daemon/base/file.h"
#include "daemon/csi/in_flight.h"
#include "daemon/csi/mount.h"
#include "tests/unit/csi/fixture.h"
#include "tests/unit/csi/loop_device.h"

namespace ublkd::csi {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::EndsWith;
using ::testing::HasSubstr;

TEST(CommandTest, GivesStatusAndTheEndOfTheOutput) {
  const auto result = RunCommand("v", {"sh", "-c", "echo out; echo err >&2; exit 3"}, seconds(20));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit_status, 3);
  EXPECT_EQ(result->output, "out\nerr\n");
  const auto much = RunCommand("v", {"sh", "-c", "seq 1 100000"}, seconds(20));
  ASSERT_TRUE(much.ok()) << much.status();
  EXPECT_EQ(much->output.size(), CommandResult::kMaxOutputBytes);
  EXPECT_THAT(much->output, EndsWith("\n99999\n100000\n"));
}

TEST(CommandTest, ArgumentsReachNoShell) {
  const auto result = RunCommand("v", {"echo", "$(id)", "; id", "a b"}, seconds(20));
  EXPECT_EQ(result->output, "$(id) ; id a b\n");
}

TEST(CommandTest, AMissingProgramIsNamed) {
  const auto result = RunCommand("v", {"mkfs.nothing"}, seconds(20));
  EXPECT_TRUE(HasCode(result.status(), absl::StatusCode::kNotFound));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("mkfs.nothing"));
}

TEST(CommandTest, ALateProgramIsKilledWithAllItStarted) {
  const auto result = RunCommand("v", {"sh", "-c", "sleep 1000 & sleep 1000"}, milliseconds(100));
  EXPECT_TRUE(HasCode(result.status(), absl::StatusCode::kDeadlineExceeded));
  EXPECT_FALSE(HasStuckChild("v"));
}

TEST(CommandTest, WhatAProgramLeavesRunningIsNotWaitedFor) {
  const auto result = RunCommand("v", {"sh", "-c", "sleep 2 & echo done"}, seconds(20));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output, "done\n");
}

TEST(HelperTest, GivesTheErrnoOrTheResult) {
  int answer = 0;
  const auto body = [&] {
    answer = 42;
    return 0;
  };
  EXPECT_OK(RunInChild("v", "cannot think", seconds(20), body, &answer, sizeof(answer)));
  EXPECT_EQ(answer, 42);
  const absl::Status status = RunInChild("v", "cannot write", seconds(20), [] { return EROFS; });
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot write: Read-only file system"));
  EXPECT_CODE(RunInChild("v", "cannot wait", milliseconds(50),
                         [] {
                           pause();
                           return 0;
                         }),
              kDeadlineExceeded);
  EXPECT_FALSE(HasStuckChild("v")) << "one that can be killed is gone";
}

constexpr size_t kDirectBytes = 4096;

class StuckTest : public CsiTest {};

TEST_F(StuckTest, WhatHangsInTheKernelIsLeftBehindAndHoldsItsVolume) {  // B10
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), CsiClient::Mount("ext4")));
  // A device whose backend waits: its file is in a filesystem that is frozen.
  const std::string file = Staging("v") + "/backend";
  WriteText(file, std::string(kMiB, 'x'));
  const auto device = AttachLoop(file, /*read_only=*/false, kDirectBytes);
  ASSERT_TRUE(device.ok()) << device.status();
  UniqueFd folder(open(Staging("v").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(ioctl(folder.get(), FIFREEZE, 0), 0);
  EXPECT_CODE(RunInChild(id, "cannot write", milliseconds(100),
                         [&] {
                           alignas(kDirectBytes) static char block[kDirectBytes];
                           const int fd = open(device->path.c_str(), O_RDWR | O_DIRECT);
                           return pwrite(fd, block, sizeof(block), 0) > 0 ? 0 : errno;
                         }),
              kDeadlineExceeded);
  EXPECT_TRUE(HasStuckChild(id));
  EXPECT_FALSE(HasStuckChild("pool/other"));
  InFlight in_flight;
  EXPECT_CODE(in_flight.Enter(id).status(), kAborted);
  EXPECT_OK(in_flight.Enter("pool/other").status());
  // Asking for the space does not change anything, so it works on.
  EXPECT_OK(client().Stats(id, Staging("v")).status());
  ASSERT_EQ(ioctl(folder.get(), FITHAW, 0), 0);
  folder.Reset();
  EXPECT_TRUE(WaitFor([&] { return !HasStuckChild(id); }));
  EXPECT_OK(in_flight.Enter(id).status());
  EXPECT_TRUE(WaitFor([&] { return DetachLoop(device->path).ok(); }));
  EXPECT_TRUE(WaitFor([&] { return CountLoops(file) == 0; }));
  CleanUp(id, Staging("v"), {});
}

}  // namespace
}  // namespace ublkd::csi
