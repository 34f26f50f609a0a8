// SPDX-License-Identifier: Apache-2.0
//
// What can be decided without a device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include "csi/v1/csi.pb.h"
#include "daemon/csi/controller.h"
#include "daemon/csi/format.h"
#include "daemon/csi/mount_options.h"
#include "daemon/csi/mountinfo.h"
#include "daemon/csi/options.h"
#include "daemon/csi/paths.h"
#include "daemon/csi/request.h"
#include "daemon/csi/state.h"
#include "daemon/csi/volume_name.h"

namespace ublkd::csi {
namespace {

using Kind = DeviceContents::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMiB = int64_t{1024} * 1024;

api::Volume VolumeWith(api::Format::State state, const std::string& fs_type = "",
                       api::Content content = api::CONTENT_EMPTY) {
  api::Volume volume;
  volume.set_id("pool/data");
  volume.set_content(content);
  volume.mutable_format()->set_state(state);
  volume.mutable_format()->set_fs_type(fs_type);
  volume.mutable_format()->set_fs_uuid("uuid-1");
  return volume;
}

DeviceContents Ext4(const std::string& uuid = "uuid-1") {
  return {Kind::kFilesystem, "ext4", uuid};
}

const DeviceContents kBlank{Kind::kBlank, "", ""};
const DeviceContents kUnknown{Kind::kUnknownData, "", ""};
const DeviceContents kXfsThere{Kind::kFilesystem, "xfs", "uuid-2"};
const DeviceContents kLuks{Kind::kFilesystem, "crypto_LUKS", "uuid-3"};
const DeviceContents kTable{Kind::kPartitionTable, "gpt", ""};
const DeviceContents kAmbivalent{Kind::kAmbivalent, "", ""};

void ExpectRefused(const api::Volume& volume, const DeviceContents& contents,
                   const std::string& fs_type = "ext4", bool read_only = false) {
  const auto step = DecideFormat(volume, contents, fs_type, read_only);
  EXPECT_EQ(step.status().code(), absl::StatusCode::kFailedPrecondition)
      << volume.ShortDebugString() << " with " << Describe(contents);
  EXPECT_THAT(std::string(step.status().message()), HasSubstr("pool/data"));
}

void ExpectStep(FormatStep expected, const api::Volume& volume, const DeviceContents& contents,
                const std::string& fs_type = "ext4") {
  const auto step = DecideFormat(volume, contents, fs_type, /*read_only=*/false);
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(*step, expected);
}

TEST(FormatDecision, OnlyAnEmptyNeverFormattedVolumeIsFormatted) {  // F2
  ExpectStep(FormatStep::kFormat, VolumeWith(api::Format::STATE_NEVER), kBlank);
  ExpectStep(FormatStep::kFormat,
             VolumeWith(api::Format::STATE_NEVER, "", api::CONTENT_UNSPECIFIED), kBlank);
  ExpectRefused(VolumeWith(api::Format::STATE_NEVER, "", api::CONTENT_PRESENT), kBlank);
}

TEST(FormatDecision, WhatIsFoundOnANeverFormattedVolumeIsNotTouched) {
  for (const auto& contents : {Ext4(), kXfsThere, kLuks, kTable, kAmbivalent, kUnknown}) {
    ExpectRefused(VolumeWith(api::Format::STATE_NEVER), contents);
    ExpectRefused(VolumeWith(api::Format::STATE_NEVER, "", api::CONTENT_PRESENT), contents);
  }
}

TEST(FormatDecision, AFormattedVolumeIsNeverFormattedAgain) {  // F6
  const api::Volume volume = VolumeWith(api::Format::STATE_FORMATTED, "ext4");
  ExpectStep(FormatStep::kMount, volume, Ext4());
  ExpectStep(FormatStep::kMount, volume, Ext4("changed by its owner"));
  for (const auto& contents : {kBlank, kXfsThere, kLuks, kTable, kAmbivalent, kUnknown}) {
    ExpectRefused(volume, contents);
  }
  const auto other = DecideFormat(volume, Ext4(), "xfs", false);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("ext4"));
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("xfs"));
}

TEST(FormatDecision, ARawVolumeIsNeverFormatted) {
  for (const auto& contents : {kBlank, Ext4(), kUnknown}) {
    ExpectRefused(VolumeWith(api::Format::STATE_FORMATTED, "block"), contents);
  }
}

TEST(FormatDecision, AnImportedVolumeIsMountedAsItIsOrRefused) {  // F4
  const api::Volume volume = VolumeWith(api::Format::STATE_UNSPECIFIED);
  ExpectStep(FormatStep::kRecordAndMount, volume, Ext4("any"));
  for (const auto& contents : {kBlank, kXfsThere, kUnknown, kTable})
    ExpectRefused(volume, contents);
}

TEST(FormatDecision, AnInterruptedMkfsIsDoneAgainOnlyOnItsOwnRemains) {  // F3
  const api::Volume volume =
      VolumeWith(api::Format::STATE_FORMATTING, "ext4", api::CONTENT_PRESENT);
  for (const auto& contents : {kBlank, kUnknown, Ext4("uuid-1")}) {
    ExpectStep(FormatStep::kFormatAgain, volume, contents);
  }
  for (const auto& contents : {Ext4("somebody else's"), kXfsThere, kTable, kAmbivalent}) {
    ExpectRefused(volume, contents);
  }
}

TEST(FormatDecision, AReadOnlyVolumeIsNotFormatted) {
  ExpectRefused(VolumeWith(api::Format::STATE_NEVER), kBlank, "ext4", /*read_only=*/true);
  ExpectRefused(VolumeWith(api::Format::STATE_FORMATTING, "ext4"), kBlank, "ext4", true);
}

TEST(FormatDecision, NoFilesystemTypeMeansTheOneThatIsThere) {
  EXPECT_EQ(ChooseFilesystem(VolumeWith(api::Format::STATE_FORMATTED, "xfs"), ""), "xfs");
  EXPECT_EQ(ChooseFilesystem(VolumeWith(api::Format::STATE_NEVER), ""), "ext4");
  EXPECT_EQ(ChooseFilesystem(VolumeWith(api::Format::STATE_FORMATTED, "xfs"), "ext4"), "ext4");
}

TEST(MountOptionsTest, PassesWhatStaysInsideTheVolume) {  // F11
  const auto options =
      ParseMountOptions({"noatime", "nosuid", "commit=5", "discard"}, "ext4", false);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->flags, static_cast<unsigned long>(MS_NOATIME | MS_NOSUID));
  EXPECT_EQ(options->data, "commit=5,discard,errors=remount-ro");
}

TEST(MountOptionsTest, RefusesWhatReachesBeyondTheVolume) {  // F11
  for (const char* option : {"dev",
                             "suid",
                             "exec",
                             "bind",
                             "remount",
                             "loop",
                             "move",
                             "rbind",
                             "shared",
                             "user",
                             "noatime,suid",
                             "noatime\nsuid",
                             "commit=5,suid",
                             "commit=5 suid",
                             "journal_path=/dev/sda",
                             "logdev=/dev/sda",
                             "errors=panic",
                             "",
                             "x-systemd.automount",
                             "uid=0",
                             "nobarrier"}) {
    const auto options = ParseMountOptions({option}, "ext4", false);
    EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument) << option;
  }
  EXPECT_FALSE(ParseMountOptions({"nouuid"}, "ext4", false).ok());
  EXPECT_TRUE(ParseMountOptions({"nouuid"}, "xfs", false).ok());
}

TEST(MountOptionsTest, ARefusalDoesNotRepeatAValue) {
  const auto options = ParseMountOptions({"password=hunter2"}, "ext4", false);
  EXPECT_THAT(std::string(options.status().message()), Not(HasSubstr("hunter2")));
  EXPECT_THAT(std::string(options.status().message()), HasSubstr("password"));
}

TEST(MountOptionsTest, AReadOnlyMountDoesNotReplayTheJournal) {  // F9
  EXPECT_EQ(ParseMountOptions({}, "ext4", true)->data, "noload");
  EXPECT_EQ(ParseMountOptions({}, "xfs", true)->data, "norecovery,nouuid");
  EXPECT_EQ(ParseMountOptions({"ro"}, "ext4", false)->data, "noload");
}

TEST(MountInfoTest, UndoesEscapesAndFindsTheFields) {  // B5
  const auto mounts = ParseMountInfo(
      "36 35 98:0 /mnt1 /mnt/with\\040space\\134and\\011tab rw,noatime shared:1 master:2 - ext3 "
      "/dev/root ro,errors=continue\n"
      "37 35 0:5 / /plain ro - tmpfs none rw\n");
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  ASSERT_EQ(mounts->size(), 2U);
  const MountEntry& entry = mounts->front();
  EXPECT_EQ(entry.device, DeviceNumber(98, 0));
  EXPECT_EQ(entry.root, "/mnt1");
  EXPECT_EQ(entry.mount_point, "/mnt/with space\\and\ttab");
  EXPECT_EQ(entry.fs_type, "ext3");
  EXPECT_EQ(entry.source, "/dev/root");
  EXPECT_TRUE(entry.shared);
  EXPECT_FALSE(entry.IsReadOnly());
  EXPECT_TRUE(entry.IsFilesystemReadOnly());
  EXPECT_TRUE(mounts->back().IsReadOnly());
  EXPECT_FALSE(mounts->back().shared);
}

TEST(MountInfoTest, ALineThatIsNotUnderstoodIsAnError) {
  for (const char* line :
       {"x", "1 2 3:4 / /m rw", "1 2 3 / /m rw - ext4 d rw", "- - - - - - - -"}) {
    EXPECT_FALSE(ParseMountInfo(line).ok()) << line;
  }
}

TEST(MountInfoTest, FindsMountsAtAndBelowAPath) {
  std::vector<MountEntry> mounts(3);
  mounts[0].mount_point = "/a/b";
  mounts[1].mount_point = "/a/bc";
  mounts[2].mount_point = "/a/b/c";
  EXPECT_EQ(MountsAt(mounts, "/a/b").size(), 1U);
  EXPECT_THAT(MountPointsUnder(mounts, "/a/b"), ElementsAre("/a/b", "/a/b/c"));
}

TEST(PathTest, RefusesWhatLeavesTheKubeletFolder) {  // E2
  for (const char* path : {"relative", "/etc/passwd", "/tmp/../etc", "/tmp/./x", "/", "/tmp",
                           "/tmpx/y", "/tmp/x/.."}) {
    EXPECT_EQ(ResolvePath(path, "target_path", "/tmp").status().code(),
              absl::StatusCode::kInvalidArgument)
        << path;
  }
  EXPECT_FALSE(ResolvePath("/tmp/" + std::string(5000, 'x'), "target_path", "/tmp").ok());
  EXPECT_EQ(*ResolvePath("/tmp//a/b/", "target_path", "/tmp"), "/tmp/a/b");
}

TEST(SizeTest, StaysInTheRange) {
  pb::CapacityRange range;
  EXPECT_EQ(*ChooseSize(range, 0, {}), 1024ULL * kMiB);
  range.set_required_bytes(10 * kMiB + 1);
  EXPECT_EQ(*ChooseSize(range, 0, {}), 10ULL * kMiB + 4096);
  range.set_limit_bytes(10 * kMiB + 600);
  EXPECT_EQ(*ChooseSize(range, 0, {}), 10ULL * kMiB + 512);
  EXPECT_EQ(ChooseSize(range, 4096, {}).status().code(), absl::StatusCode::kOutOfRange);
  range.set_limit_bytes(10 * kMiB);
  EXPECT_EQ(ChooseSize(range, 0, {}).status().code(), absl::StatusCode::kInvalidArgument);
  range.set_required_bytes(0);
  range.set_limit_bytes(1000);
  EXPECT_EQ(ChooseSize(range, 0, {}).status().code(), absl::StatusCode::kOutOfRange);
  range.set_required_bytes(-1);
  EXPECT_EQ(ChooseSize(range, 0, {}).status().code(), absl::StatusCode::kInvalidArgument);
  range.set_required_bytes(std::numeric_limits<int64_t>::max());
  range.set_limit_bytes(0);
  EXPECT_EQ(ChooseSize(range, 0, {}).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(SizeTest, XfsBelowItsMinimumIsOutOfRange) {  // F12
  Usage xfs;
  xfs.fs_type = "xfs";
  pb::CapacityRange range;
  range.set_required_bytes(299 * kMiB);
  EXPECT_EQ(ChooseSize(range, 0, {xfs}).status().code(), absl::StatusCode::kOutOfRange);
  range.set_required_bytes(300 * kMiB);
  EXPECT_EQ(*ChooseSize(range, 0, {xfs}), 300ULL * kMiB);
}

TEST(VolumeNameTest, DistinctNamesStayDistinctAndFit) {
  const std::string longest(128, 'n');
  const std::string other = std::string(127, 'n') + "o";
  EXPECT_EQ(MakeVolumeName("pool", "pvc-1"), "pvc-1");
  EXPECT_TRUE(IsVolumeId("pool/" + MakeVolumeName("pool", longest)));
  EXPECT_NE(MakeVolumeName("pool", longest), MakeVolumeName("pool", other));
  EXPECT_TRUE(IsVolumeId("pool/" + MakeVolumeName("pool", "Ünïcode / ../name")));
  EXPECT_NE(MakeVolumeName("pool", MakeVolumeName("pool", "a/b")), MakeVolumeName("pool", "a/b"));
  EXPECT_TRUE(
      IsVolumeId(std::string(63, 'p') + "/" + MakeVolumeName(std::string(63, 'p'), longest)));
  EXPECT_FALSE(CheckVolumeName("").ok());
  EXPECT_FALSE(CheckVolumeName(std::string("a\0b", 3)).ok());
  EXPECT_FALSE(CheckVolumeName("a\xc2\x85z").ok());
  EXPECT_TRUE(CheckVolumeName("tab\tand ü").ok());
}

TEST(RequestTest, OversizedFieldsAreInvalid) {  // E20
  pb::NodeStageVolumeRequest request;
  request.set_staging_target_path("/" + std::string(1000, 'p'));
  EXPECT_TRUE(CheckSizes(request).ok());
  request.set_volume_id(std::string(129, 'v'));
  EXPECT_THAT(std::string(CheckSizes(request).message()), HasSubstr("volume_id"));
  request.set_volume_id("v");
  (*request.mutable_volume_context())["key"] = std::string(4096, 'x');
  EXPECT_THAT(std::string(CheckSizes(request).message()), HasSubstr("volume_context"));
  request.clear_volume_context();
  request.mutable_volume_capability()->mutable_mount()->set_fs_type(std::string(200, 'f'));
  EXPECT_THAT(std::string(CheckSizes(request).message()), HasSubstr("fs_type"));
}

TEST(RequestTest, SecretsAreStripped) {  // E19
  pb::NodeStageVolumeRequest request;
  request.set_volume_id("pool/data");
  (*request.mutable_secrets())["key"] = "hunter2";
  request.mutable_volume_capability()->mutable_mount()->add_mount_flags("token=hunter2");
  request.mutable_volume_capability()->mutable_mount()->set_fs_type("ext4");
  const std::string text = DescribeWithoutSecrets(request);
  EXPECT_THAT(text, Not(HasSubstr("hunter2")));
  EXPECT_THAT(text, HasSubstr("pool/data"));
  EXPECT_THAT(text, HasSubstr("ext4"));
}

TEST(RequestTest, EverySecretOfTheInterfaceIsMarked) {
  const auto* file = pb::Volume::descriptor()->file();
  int marked = 0;
  for (int i = 0; i < file->message_type_count(); ++i) {
    const auto* field = file->message_type(i)->FindFieldByName("secrets");
    if (field == nullptr) continue;
    EXPECT_TRUE(field->options().GetExtension(::csi::v1::csi_secret)) << field->full_name();
    ++marked;
  }
  EXPECT_GE(marked, 19);
}

TEST(OptionsTest, EndpointFormsAndBadValues) {
  Options options;
  options.endpoint = "unix:///run/x.sock";
  ASSERT_TRUE(CompleteOptions(options).ok());
  EXPECT_EQ(options.endpoint, "/run/x.sock");
  EXPECT_EQ(options.topology_key, "topology.csi.ublkd.dev/node");
  EXPECT_FALSE(options.node_id.empty());
  const auto refused = [](auto change) {
    Options bad;
    change(bad);
    return CompleteOptions(bad).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](Options& bad) { bad.endpoint = "tcp://1.2.3.4"; }));
  EXPECT_TRUE(refused([](Options& bad) { bad.kubelet_dir = "kubelet"; }));
  EXPECT_TRUE(refused([](Options& bad) { bad.kubelet_dir = "/"; }));
  EXPECT_TRUE(refused([](Options& bad) { bad.driver_name = "bad name"; }));
  EXPECT_TRUE(refused([](Options& bad) { bad.node_id = std::string(64, 'n'); }));
  EXPECT_TRUE(refused([](Options& bad) { bad.topology_key = "a/b/c"; }));
}

}  // namespace
}  // namespace ublkd::csi
