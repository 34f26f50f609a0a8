// SPDX-License-Identifier: Apache-2.0
//
// Formatting on real devices: what is formatted, what is not, and that no doubt destroys data.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "daemon/base/file.h"
#include "daemon/csi/blockdev.h"
#include "daemon/csi/probe.h"
#include "tests/unit/csi/fixture.h"
#include "tests/unit/csi/loop_device.h"

namespace ublkd::csi {
namespace {

namespace pb = ::csi::v1;

using ::testing::HasSubstr;
using Mode = pb::VolumeCapability::AccessMode;

const CsiClient::Capability kExt4 = CsiClient::Mount("ext4");

class FormatTest : public CsiTest {
 protected:
  // The whole of a volume's file, so that a test can say that not one byte changed.
  std::string Content(const std::string& id) { return ReadText(ublkd().FilePath(id)); }

  void WriteInto(const std::string& id, off_t offset, const std::string& text) {
    const UniqueFd file(open(ublkd().FilePath(id).c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(pwrite(file.get(), text.data(), text.size(), offset),
              static_cast<ssize_t>(text.size()));
  }

  // Stages and expects a refusal that changes nothing and leaves nothing behind.
  void ExpectUntouched(const std::string& id, const CsiClient::Capability& capability,
                       absl::StatusCode code, const std::string& words) {
    const std::string before = Content(id);
    const absl::Status status = client().Stage(id, Staging("v"), capability);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    EXPECT_TRUE(Content(id) == before) << "the volume was written to";
    EXPECT_FALSE(ublkd().Get(id).has_device_id()) << "a stage that fails leaves no device";
    EXPECT_OK(client().DeleteVolume(id));
  }
};

TEST_F(FormatTest, RawDataWithoutASignatureIsNotFormatted) {  // F2
  for (const off_t offset :
       {off_t{0}, off_t{4096}, off_t{10 * kMiB}, off_t{kSmallVolumeBytes - 8}}) {
    const std::string id = MakeVolume("v");
    WriteInto(id, offset, "precious");
    ExpectUntouched(id, kExt4, absl::StatusCode::kFailedPrecondition, "never formatted");
  }
}

TEST_F(FormatTest, DataIsFoundEvenWhenTheBackendDeniesIt) {  // F2
  for (const off_t offset : {off_t{0}, off_t{1024}, off_t{65536}, off_t{kSmallVolumeBytes - 512}}) {
    const std::string id = MakeVolume("v");
    WriteInto(id, offset, "precious");
    ublkd().SetContent(id, api::CONTENT_EMPTY);
    ExpectUntouched(id, kExt4, absl::StatusCode::kFailedPrecondition, "data without a known");
  }
}

TEST_F(FormatTest, ABackendThatCannotTellIsJudgedByWhatIsRead) {
  const std::string id = MakeVolume("v");
  ublkd().SetContent(id, api::CONTENT_UNSPECIFIED);
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, SignaturesAreNotFormatted) {  // F6, F7
  const std::string id = MakeVolume("v");
  ASSERT_EQ(RunShell("mkswap -q " + ublkd().FilePath(id) + " >/dev/null 2>&1"), 0);
  ublkd().SetContent(id, api::CONTENT_EMPTY);
  ExpectUntouched(id, kExt4, absl::StatusCode::kFailedPrecondition, "swap");
}

TEST_F(FormatTest, APartitionTableIsNotFormatted) {  // F7
  const std::string id = MakeVolume("v", kSmallVolumeBytes);
  // A table with one entry of type 0x83, as the first block of a disk has it.
  WriteInto(id, 446,
            std::string("\x80\x01\x01\x00\x83\x01\x01\x00\x08\x00\x00\x00\x10\x00\x00\x00", 16));
  WriteInto(id, 510, "\x55\xaa");
  ublkd().SetContent(id, api::CONTENT_EMPTY);
  ExpectUntouched(id, kExt4, absl::StatusCode::kFailedPrecondition, "partition table");
}

TEST_F(FormatTest, AFormattedVolumeKeepsItsType) {  // F6
  const std::string id = MakeVolume("v", kXfsVolumeBytes);
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Unstage(id, Staging("v")));
  const absl::Status status = client().Stage(id, Staging("v"), CsiClient::Mount("xfs"));
  EXPECT_CODE(status, kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("ext4"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("xfs"));
  ASSERT_OK(client().Stage(id, Staging("v"), CsiClient::Mount(""))) << "no type: what is there";
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, AnImportedFilesystemIsMountedAndRecorded) {  // F4
  const std::string id = MakeVolume("v");
  ASSERT_EQ(RunShell("mkfs.ext4 -q -b 4096 " + ublkd().FilePath(id)), 0);
  api::Format imported;
  imported.set_state(api::Format::STATE_UNSPECIFIED);
  ublkd().SetFormat(id, imported);
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  EXPECT_EQ(ublkd().Get(id).format().state(), api::Format::STATE_FORMATTED);
  EXPECT_EQ(ublkd().Get(id).format().fs_type(), "ext4");
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, AnImportedBlankVolumeIsNotFormatted) {  // F4
  const std::string id = MakeVolume("v");
  ublkd().SetFormat(id, {});
  ExpectUntouched(id, kExt4, absl::StatusCode::kFailedPrecondition, "never formatted");
}

TEST_F(FormatTest, AWipedFormattedVolumeIsNotFormattedAgain) {
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Unstage(id, Staging("v")));
  WriteInto(id, 0, std::string(kMiB, '\0'));
  ExpectUntouched(id, kExt4, absl::StatusCode::kFailedPrecondition, "not touched");
}

// A device whose file became shorter: reads beyond its end fail with EIO.
class BrokenReads : public FormatTest {
 protected:
  void BreakFrom(const std::string& id, off_t offset) {
    ASSERT_EQ(truncate(ublkd().FilePath(id).c_str(), offset), 0);
  }
  // What the plugin would see: the file is cut after the device is attached.
  void BreakWhenAttached(const std::string& id, off_t offset) {
    ublkd().SetHook([this, id, offset](const std::string& moment) {
      if (moment == "CreateDevice:after") BreakFrom(id, offset);
    });
  }
};

TEST_F(BrokenReads, CannotTellIsNotBlank) {  // F1
  for (const off_t offset : {off_t{0}, off_t{512} * 1024, off_t{kSmallVolumeBytes - 4096}}) {
    const std::string id = MakeVolume("v");
    BreakWhenAttached(id, offset);
    const absl::Status status = client().Stage(id, Staging("v"), kExt4);
    ublkd().SetHook(nullptr);
    EXPECT_CODE(status, kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("cannot tell"));
    EXPECT_EQ(ublkd().Get(id).format().state(), api::Format::STATE_NEVER) << "mkfs was started";
    EXPECT_EQ(BlkidValue(ublkd().FilePath(id), "TYPE"), "");
    EXPECT_OK(client().DeleteVolume(id));
  }
}

TEST_F(BrokenReads, AFilesystemThatCannotBeReadIsNotFormatted) {  // F1
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  WriteText(Target("v") + "/file", "precious");
  ASSERT_OK(client().Unpublish(id, Target("v")));
  ASSERT_OK(client().Unstage(id, Staging("v")));
  const std::string whole = Content(id);
  BreakWhenAttached(id, 0);
  EXPECT_CODE(client().Stage(id, Staging("v"), kExt4), kUnavailable);
  ublkd().SetHook(nullptr);
  // The backend is well again.
  WriteText(ublkd().FilePath(id), whole);
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  EXPECT_EQ(ReadText(Target("v") + "/file"), "precious");
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(FormatTest, AMissingOrWrongDeviceIsNotFormatted) {  // F1
  EXPECT_CODE(ProbeDevice("/dev/does-not-exist").status(), kNotFound);
  const std::string file = Path("file");
  WriteText(file, std::string(kMiB, '\0'));
  EXPECT_FALSE(ProbeDevice(file).ok()) << "a regular file is no device";
}

TEST_F(FormatTest, ADeviceInUseIsNotProbed) {  // F2
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  const std::string device = absl::StrCat("/dev/loop", ublkd().Get(id).device_id());
  EXPECT_CODE(ProbeDevice(device).status(), kAborted);
  EXPECT_CODE(WipeSignatures(device), kAborted);
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, NoForceFlagIsPassed) {  // F5
  PutProgram("mkfs.xfs",
             absl::StrCat("echo \" $@ \" > ", Path("arguments"), "; exec /sbin/mkfs.xfs \"$@\""));
  const std::string id = MakeVolume("v", kXfsVolumeBytes);
  ASSERT_OK(client().Stage(id, Staging("v"), CsiClient::Mount("xfs")));
  EXPECT_THAT(ReadText(Path("arguments")), ::testing::Not(HasSubstr(" -f ")));
  EXPECT_THAT(ReadText(Path("arguments")), HasSubstr(ublkd().Get(id).format().fs_uuid()));
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, AMkfsThatFailsIsReportedAndDoneAgain) {  // F3
  PutProgram("mkfs.ext4", "echo the disk is made of cheese; exit 7");
  const std::string id = MakeVolume("v");
  const absl::Status status = client().Stage(id, Staging("v"), kExt4);
  EXPECT_CODE(status, kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the disk is made of cheese"));
  EXPECT_EQ(ublkd().Get(id).format().state(), api::Format::STATE_FORMATTING);
  EXPECT_FALSE(ublkd().Get(id).has_device_id());
  // One that lies about its success is found out.
  PutProgram("mkfs.ext4", "exit 0");
  EXPECT_CODE(client().Stage(id, Staging("v"), kExt4), kInternal);
  PutProgram("mkfs.ext4", "exec /sbin/mkfs.ext4 \"$@\"");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, AnInterruptedMkfsIsNotDoneAgainOnSomebodyElsesData) {  // F3
  const std::string id = MakeVolume("v");
  api::Format format;
  format.set_state(api::Format::STATE_FORMATTING);
  format.set_fs_type("ext4");
  format.set_fs_uuid("8d5a3c1e-0000-4000-8000-000000000001");
  ublkd().SetFormat(id, format);
  ASSERT_EQ(RunShell("mkfs.ext4 -q -b 4096 " + ublkd().FilePath(id)), 0);
  ExpectUntouched(id, kExt4, absl::StatusCode::kFailedPrecondition, "not touched");
}

TEST_F(FormatTest, AFilesystemThatWasNotUnmountedIsChecked) {  // F8
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  WriteText(Staging("v") + "/file", "kept");
  ASSERT_EQ(RunShell("sync -f " + Staging("v")), 0);
  // As after a power cut: the file of the volume while it is mounted.
  const std::string cut = Content(id);
  ASSERT_OK(client().Unstage(id, Staging("v")));
  WriteText(ublkd().FilePath(id), cut);
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  EXPECT_EQ(ReadText(Staging("v") + "/file"), "kept");
  EXPECT_THAT(CsiLog(), HasSubstr("filesystem is checked"));
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, DamageThatNeedsAPersonIsReported) {  // F8
  PutProgram("e2fsck", "echo UNEXPECTED INCONSISTENCY; exit 4");
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Unstage(id, Staging("v")));
  // Errors were detected, says the superblock.
  ASSERT_EQ(RunShell("debugfs -w -R 'set_super_value state 2' " + ublkd().FilePath(id) +
                     " >/dev/null 2>&1"),
            0);
  const absl::Status status = client().Stage(id, Staging("v"), kExt4);
  EXPECT_CODE(status, kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("UNEXPECTED INCONSISTENCY"));
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(FormatTest, TheFilesystemGrowsToALargerVolume) {  // F13, F14
  for (const auto& [fs_type, bytes] :
       {std::pair{"ext4", kSmallVolumeBytes}, std::pair{"xfs", kXfsVolumeBytes}}) {
    const auto capability = CsiClient::Mount(fs_type);
    const std::string id = MakeVolume("v", bytes, capability);
    ASSERT_OK(client().Stage(id, Staging("v"), capability));
    WriteText(Staging("v") + "/file", "kept");
    const int64_t before = client().Stats(id, Staging("v"))->usage(0).total();
    ASSERT_OK(client().Unstage(id, Staging("v")));
    ublkd().Resize(id, static_cast<uint64_t>(2 * bytes));
    ASSERT_OK(client().Stage(id, Staging("v"), capability));
    EXPECT_GT(client().Stats(id, Staging("v"))->usage(0).total(), before + bytes / 2) << fs_type;
    EXPECT_EQ(ReadText(Staging("v") + "/file"), "kept");
    ASSERT_OK(client().Unstage(id, Staging("v")));
    // Read-only: nothing may be written, so nothing grows.
    ublkd().Resize(id, static_cast<uint64_t>(4 * bytes));
    ASSERT_OK(
        client().Stage(id, Staging("v"), CsiClient::Mount(fs_type, Mode::SINGLE_NODE_READER_ONLY)));
    EXPECT_LT(client().Stats(id, Staging("v"))->usage(0).total(), 2 * bytes);
    CleanUp(id, Staging("v"), {});
  }
}

TEST_F(FormatTest, TwoXfsVolumesWithOneUuidCanBothBeReadAtOnce) {  // F10
  const auto xfs = CsiClient::Mount("xfs");
  const auto reader = CsiClient::Mount("xfs", Mode::SINGLE_NODE_READER_ONLY);
  const std::string id = MakeVolume("v", kXfsVolumeBytes, xfs);
  ASSERT_OK(client().Stage(id, Staging("v"), xfs));
  ASSERT_OK(client().Unstage(id, Staging("v")));
  const std::string copy = MakeVolume("copy", kXfsVolumeBytes, xfs);
  ASSERT_EQ(RunShell(absl::StrCat("cp --sparse=always ", ublkd().FilePath(id), " ",
                                  ublkd().FilePath(copy))),
            0);
  ublkd().SetFormat(copy, ublkd().Get(id).format());
  ASSERT_OK(client().Stage(id, Staging("v"), xfs));
  ASSERT_OK(client().Stage(copy, Staging("copy"), reader));
  CleanUp(copy, Staging("copy"), {});
  CleanUp(id, Staging("v"), {});
}

TEST_F(FormatTest, ASmallVolumeIsNotFormattedWithXfs) {  // F12
  const std::string id = MakeVolume("v");
  ExpectUntouched(id, CsiClient::Mount("xfs"), absl::StatusCode::kFailedPrecondition, "xfs needs");
}

TEST_F(FormatTest, BothBlockSizesWork) {
  for (const char* block : {"512", "4096"}) {
    const auto id =
        client().CreateVolume("v", kSmallVolumeBytes, kExt4, {{"logicalBlockSize", block}});
    ASSERT_TRUE(id.ok()) << id.status();
    ASSERT_OK(client().Stage(*id, Staging("v"), kExt4));
    CleanUp(*id, Staging("v"), {});
  }
}

}  // namespace
}  // namespace ublkd::csi
