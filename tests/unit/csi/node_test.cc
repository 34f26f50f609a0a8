// SPDX-License-Identifier: Apache-2.0
//
// The node's calls for filesystems.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/rpc.h"
#include "tests/unit/csi/fixture.h"

namespace ublkd::csi {
namespace {

namespace pb = ::csi::v1;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Mode = pb::VolumeCapability::AccessMode;

const CsiClient::Capability kExt4 = CsiClient::Mount("ext4");

class NodeTest : public CsiTest {
 protected:
  static bool IsReadOnly(const std::string& path) {
    struct statvfs state;
    EXPECT_EQ(statvfs(path.c_str(), &state), 0) << path;
    return (state.f_flag & ST_RDONLY) != 0;
  }
};

TEST_F(NodeTest, InfoAndCapabilities) {
  grpc::ClientContext context;
  pb::NodeGetInfoResponse info;
  EXPECT_OK(FromGrpc(client().node().NodeGetInfo(&context, {}, &info)));
  EXPECT_EQ(info.node_id(), "node-1");
  EXPECT_EQ(info.accessible_topology().segments().at("topology.csi.ublkd.dev/node"), "node-1");
  grpc::ClientContext second;
  pb::NodeGetCapabilitiesResponse response;
  EXPECT_OK(FromGrpc(client().node().NodeGetCapabilities(&second, {}, &response)));
  std::vector<int> types;
  for (const auto& capability : response.capabilities()) types.push_back(capability.rpc().type());
  using Rpc = pb::NodeServiceCapability::RPC;
  EXPECT_THAT(types, ElementsAre(Rpc::STAGE_UNSTAGE_VOLUME, Rpc::GET_VOLUME_STATS,
                                 Rpc::VOLUME_CONDITION, Rpc::SINGLE_NODE_MULTI_WRITER));
}

TEST_F(NodeTest, DataOutlivesUnstagingAndStaging) {
  for (const auto& [fs_type, bytes] :
       {std::pair{"ext4", kSmallVolumeBytes}, std::pair{"xfs", kXfsVolumeBytes}}) {
    const auto capability = CsiClient::Mount(fs_type);
    const std::string id = MakeVolume(fs_type, bytes, capability);
    const std::string staging = Staging(fs_type);
    const std::string target = Target(fs_type);
    ASSERT_OK(client().Stage(id, staging, capability));
    ASSERT_OK(client().Publish(id, staging, target, capability));
    WriteText(target + "/file", "kept");
    ASSERT_OK(client().Unpublish(id, target));
    EXPECT_FALSE(Exists(target)) << "the target is removed";
    ASSERT_OK(client().Unstage(id, staging));
    EXPECT_TRUE(Exists(staging)) << "kubelet's own folder stays";
    EXPECT_FALSE(ublkd().Get(id).has_device_id()) << "the device is detached";
    EXPECT_EQ(ublkd().Get(id).format().state(), api::Format::STATE_FORMATTED);
    EXPECT_EQ(BlkidValue(ublkd().FilePath(id), "TYPE"), fs_type);
    EXPECT_EQ(BlkidValue(ublkd().FilePath(id), "UUID"), ublkd().Get(id).format().fs_uuid());
    ASSERT_OK(client().Stage(id, staging, capability));
    ASSERT_OK(client().Publish(id, staging, target, capability));
    EXPECT_EQ(ReadText(target + "/file"), "kept");
    CleanUp(id, staging, {target});
  }
}

TEST_F(NodeTest, MissingFieldsAreInvalid) {  // E1
  const std::string staging = Staging("v");
  EXPECT_CODE(client().Stage("", staging, kExt4), kInvalidArgument);
  EXPECT_CODE(client().Stage("pool/v", "", kExt4), kInvalidArgument);
  EXPECT_CODE(client().Stage("pool/v", staging, {}), kInvalidArgument);
  EXPECT_CODE(client().Unstage("", staging), kInvalidArgument);
  EXPECT_CODE(client().Unstage("pool/v", ""), kInvalidArgument);
  EXPECT_CODE(client().Publish("", staging, Target("v"), kExt4), kInvalidArgument);
  EXPECT_CODE(client().Publish("pool/v", staging, "", kExt4), kInvalidArgument);
  EXPECT_CODE(client().Publish("pool/v", staging, Target("v"), {}), kInvalidArgument);
  EXPECT_CODE(client().Unpublish("", Target("v")), kInvalidArgument);
  EXPECT_CODE(client().Unpublish("pool/v", ""), kInvalidArgument);
  EXPECT_CODE(client().Stats("", staging).status(), kInvalidArgument);
  EXPECT_CODE(client().Stats("pool/v", "").status(), kInvalidArgument);
}

TEST_F(NodeTest, PathsOutsideTheKubeletFolderAreInvalid) {  // E2
  const std::string id = MakeVolume("v");
  std::filesystem::create_directory_symlink("/tmp", kubelet() + "/link");
  for (const std::string& path :
       {std::string("relative/path"), std::string("/etc/x"), kubelet() + "/../x",
        kubelet() + "/a/../../x", kubelet(), kubelet() + "/link/x"}) {
    EXPECT_CODE(client().Stage(id, path, kExt4), kInvalidArgument);
    EXPECT_CODE(client().Unstage(id, path), kInvalidArgument);
    EXPECT_CODE(client().Publish(id, Staging("v"), path, kExt4), kInvalidArgument);
    EXPECT_CODE(client().Unpublish(id, path), kInvalidArgument);
  }
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(NodeTest, OversizedFieldsAreInvalid) {  // E20
  EXPECT_CODE(client().Stage(std::string(129, 'v'), Staging("v"), kExt4), kInvalidArgument);
  EXPECT_CODE(client().Stage(std::string(1000000, 'v'), Staging("v"), kExt4), kInvalidArgument);
  EXPECT_CODE(client().Stage("pool/v", kubelet() + "/" + std::string(5000, 'p'), kExt4),
              kInvalidArgument);
}

TEST_F(NodeTest, UnsupportedCapabilitiesExceedTheVolume) {  // E3
  const std::string id = MakeVolume("v");
  EXPECT_CODE(client().Stage(id, Staging("v"), CsiClient::Mount("ntfs")), kFailedPrecondition);
  EXPECT_CODE(
      client().Stage(id, Staging("v"), CsiClient::Mount("ext4", Mode::MULTI_NODE_MULTI_WRITER)),
      kFailedPrecondition);
  EXPECT_CODE(client().Stage(id, Staging("v"),
                             CsiClient::Mount("ext4", Mode::SINGLE_NODE_WRITER, {"suid"})),
              kInvalidArgument);
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(NodeTest, UnknownVolumes) {  // E4, E7, E14, E15
  const std::string staging = Staging("v");
  for (const char* id : {"fake-vol-id", "pool/unknown", "../../etc"}) {
    EXPECT_CODE(client().Stage(id, staging, kExt4), kNotFound);
    EXPECT_CODE(client().Publish(id, staging, Target("v"), kExt4), kNotFound);
    EXPECT_CODE(client().Stats(id, "some/path").status(), kNotFound);
    EXPECT_OK(client().Unstage(id, staging));
    EXPECT_OK(client().Unstage(id, kubelet() + "/not/there"));
    EXPECT_OK(client().Unpublish(id, kubelet() + "/not/there"));
  }
  EXPECT_FALSE(Exists(Target("v"))) << "a publish that fails makes no target";
}

TEST_F(NodeTest, EveryCallMayBeRepeated) {  // E5, E11
  const std::string id = MakeVolume("v");
  const std::string staging = Staging("v");
  const std::string target = Target("v");
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Stage(id, staging, kExt4));
  EXPECT_EQ(ublkd().attach_count(), 1);
  EXPECT_THAT(MountsBelowKubelet(), ElementsAre(staging));
  const std::string uuid = ublkd().Get(id).format().fs_uuid();
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Publish(id, staging, target, kExt4));
  EXPECT_THAT(MountsBelowKubelet(), ElementsAre(staging, target));
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Unpublish(id, target));
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Unstage(id, staging));
  EXPECT_EQ(ublkd().Get(id).format().fs_uuid(), uuid) << "formatted once";
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(NodeTest, TheWholeWayTenTimes) {
  for (int i = 0; i < 10; ++i) {
    const std::string id = MakeVolume("v");
    ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
    ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
    CleanUp(id, Staging("v"), {Target("v")});
  }
}

TEST_F(NodeTest, AnotherWayAtTheSamePathExists) {  // E6, E12
  const std::string id = MakeVolume("v");
  const std::string staging = Staging("v");
  const std::string target = Target("v");
  ASSERT_OK(client().Stage(id, staging, kExt4));
  EXPECT_CODE(client().Stage(id, staging, CsiClient::Mount("xfs")), kAlreadyExists);
  EXPECT_CODE(client().Stage(id, staging, CsiClient::Block()), kAlreadyExists);
  EXPECT_CODE(client().Stage(id, staging, CsiClient::Mount("ext4", Mode::SINGLE_NODE_READER_ONLY)),
              kAlreadyExists);
  EXPECT_CODE(
      client().Stage(id, staging, CsiClient::Mount("ext4", Mode::SINGLE_NODE_WRITER, {"noatime"})),
      kAlreadyExists);
  EXPECT_CODE(client().Stage(id, Staging("other"), kExt4), kFailedPrecondition);
  ASSERT_OK(client().Publish(id, staging, target, kExt4));
  EXPECT_CODE(client().Publish(id, staging, target, kExt4, /*read_only=*/true), kAlreadyExists);
  EXPECT_CODE(client().Publish(id, staging, target,
                               CsiClient::Mount("ext4", Mode::SINGLE_NODE_SINGLE_WRITER)),
              kAlreadyExists);
  EXPECT_CODE(client().Publish(id, staging, target, CsiClient::Block()), kFailedPrecondition);
  CleanUp(id, staging, {target});
}

TEST_F(NodeTest, UnstageWaitsForUnpublish) {  // E8
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  const absl::Status status = client().Unstage(id, Staging("v"));
  EXPECT_CODE(status, kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Target("v")));
  WriteText(Target("v") + "/file", "still usable");
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(NodeTest, PublishNeedsAStagingPath) {  // E9
  const std::string id = MakeVolume("v");
  EXPECT_CODE(client().Publish(id, "", Target("v"), kExt4), kFailedPrecondition);
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(NodeTest, PublishHealsAMissingStage) {  // E10
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  WriteText(Target("v") + "/file", "there");
  // The staging mount went away behind our back.
  ASSERT_OK(client().Unpublish(id, Target("v")));
  ASSERT_EQ(umount2(Staging("v").c_str(), 0), 0);
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  EXPECT_EQ(ReadText(Target("v") + "/file"), "there");
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(NodeTest, SecondTargetByAccessMode) {  // E13
  const std::string id = MakeVolume("v");
  const std::string staging = Staging("v");
  const std::string one = Target("v", "pod-1");
  const std::string two = Target("v", "pod-2");
  const auto exclusive = CsiClient::Mount("ext4", Mode::SINGLE_NODE_SINGLE_WRITER);
  for (const auto mode : {Mode::SINGLE_NODE_WRITER, Mode::SINGLE_NODE_MULTI_WRITER}) {
    const auto shared = CsiClient::Mount("ext4", mode);
    ASSERT_OK(client().Stage(id, staging, shared));
    ASSERT_OK(client().Publish(id, staging, one, shared));
    ASSERT_OK(client().Publish(id, staging, two, shared));
    WriteText(one + "/file", "seen by both");
    EXPECT_EQ(ReadText(two + "/file"), "seen by both");
    ASSERT_OK(client().Unpublish(id, two));
    EXPECT_CODE(client().Publish(id, staging, two, exclusive), kFailedPrecondition);
    ASSERT_OK(client().Unpublish(id, one));
  }
  ASSERT_OK(client().Publish(id, staging, one, exclusive));
  EXPECT_CODE(client().Publish(id, staging, two, exclusive), kFailedPrecondition);
  EXPECT_CODE(client().Publish(id, staging, two, kExt4), kFailedPrecondition);
  EXPECT_FALSE(Exists(two));
  CleanUp(id, staging, {one});
}

TEST_F(NodeTest, ReadOnlyPublishTakesNoWrites) {  // B1, F9
  const std::string id = MakeVolume("v");
  const std::string writer = Target("v", "writer");
  const std::string reader = Target("v", "reader");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), writer, kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), reader, kExt4, /*read_only=*/true));
  EXPECT_FALSE(IsReadOnly(writer));
  EXPECT_TRUE(IsReadOnly(reader));
  EXPECT_EQ(open((reader + "/file").c_str(), O_CREAT | O_WRONLY, 0600), -1);
  EXPECT_EQ(errno, EROFS);
  WriteText(writer + "/file", "seen");
  EXPECT_EQ(ReadText(reader + "/file"), "seen");
  CleanUp(id, Staging("v"), {writer, reader});
}

TEST_F(NodeTest, ReadOnlyVolumeIsReadOnlyDownToTheDevice) {  // F9
  const std::string id = MakeVolume("v");
  const auto read_only = CsiClient::Mount("ext4", Mode::SINGLE_NODE_READER_ONLY);
  const absl::Status unformatted = client().Stage(id, Staging("v"), read_only);
  EXPECT_CODE(unformatted, kFailedPrecondition);
  EXPECT_FALSE(ublkd().Get(id).has_device_id()) << "a stage that fails leaves no device";
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Unstage(id, Staging("v")));
  ASSERT_OK(client().Stage(id, Staging("v"), read_only));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), read_only));
  EXPECT_TRUE(IsReadOnly(Target("v")));
  EXPECT_CODE(client().Publish(id, Staging("v"), Target("v", "writer"), kExt4),
              kFailedPrecondition);
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(NodeTest, MountFlagsArriveAndPropagate) {  // F11
  const std::string id = MakeVolume("v");
  const auto capability =
      CsiClient::Mount("ext4", Mode::SINGLE_NODE_WRITER, {"noatime", "nosuid", "commit=17"});
  ASSERT_OK(client().Stage(id, Staging("v"), capability));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), capability));
  const std::string mounts = ReadText("/proc/self/mountinfo");
  EXPECT_THAT(mounts, HasSubstr("commit=17"));
  struct statvfs state;
  ASSERT_EQ(statvfs(Target("v").c_str(), &state), 0);
  EXPECT_NE(state.f_flag & ST_NOATIME, 0U);
  EXPECT_NE(state.f_flag & ST_NOSUID, 0U);
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(NodeTest, StatsTellSpaceAndInodes) {  // E15, B12
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  for (const std::string& path : {Staging("v"), Target("v")}) {
    const auto stats = client().Stats(id, path);
    ASSERT_TRUE(stats.ok()) << stats.status();
    ASSERT_EQ(stats->usage_size(), 2);
    EXPECT_EQ(stats->usage(0).unit(), pb::VolumeUsage::BYTES);
    EXPECT_GT(stats->usage(0).total(), kSmallVolumeBytes / 2);
    EXPECT_LE(stats->usage(0).used() + stats->usage(0).available(), stats->usage(0).total());
    EXPECT_EQ(stats->usage(1).unit(), pb::VolumeUsage::INODES);
    EXPECT_FALSE(stats->volume_condition().abnormal()) << stats->volume_condition().message();
  }
  for (const std::string& path : {std::string("some/path"), kubelet() + "/pods", Staging("x")}) {
    EXPECT_CODE(client().Stats(id, path).status(), kNotFound);
  }
  CleanUp(id, Staging("v"), {Target("v")});
}

TEST_F(NodeTest, AFilesystemThatTurnedReadOnlyIsNotPublished) {  // B11
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_EQ(mount("", Staging("v").c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  EXPECT_CODE(client().Publish(id, Staging("v"), Target("v"), kExt4), kFailedPrecondition);
  EXPECT_TRUE(client().Stats(id, Staging("v"))->volume_condition().abnormal());
  CleanUp(id, Staging("v"), {});
}

TEST_F(NodeTest, AMountOfAnotherDeviceIsNotTakenForOurs) {  // B7
  const std::string id = MakeVolume("v");
  ASSERT_EQ(mount("stale", Staging("v").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_EQ(mount("stale2", Staging("v").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  EXPECT_THAT(MountsBelowKubelet(), ElementsAre(Staging("v")));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  WriteText(Target("v") + "/file", "on our device");
  CleanUp(id, Staging("v"), {Target("v")});
  // At a target it may be somebody's data, so it is left alone.
  const std::string other = MakeVolume("w");
  std::filesystem::create_directory(Target("w"));
  ASSERT_EQ(mount("foreign", Target("w").c_str(), "tmpfs", 0, nullptr), 0);
  EXPECT_CODE(client().Publish(other, Staging("w"), Target("w"), kExt4), kFailedPrecondition);
  ASSERT_EQ(umount2(Target("w").c_str(), 0), 0);
  CleanUp(other, Staging("w"), {Target("w")});
}

TEST_F(NodeTest, UnpublishUndoesStackedMountsAndKeepsForeignFiles) {  // B9
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  ASSERT_EQ(mount(Staging("v").c_str(), Target("v").c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_OK(client().Unpublish(id, Target("v")));
  EXPECT_FALSE(Exists(Target("v")));
  std::filesystem::create_directory(Target("v"));
  WriteText(Target("v") + "/precious", "not ours");
  EXPECT_CODE(client().Unpublish(id, Target("v")), kFailedPrecondition);
  EXPECT_EQ(ReadText(Target("v") + "/precious"), "not ours");
  std::filesystem::remove_all(Target("v"));
  CleanUp(id, Staging("v"), {});
}

TEST_F(NodeTest, UnpublishOfAnotherVolumesTargetIsRefused) {
  const std::string id = MakeVolume("v");
  const std::string other = MakeVolume("w");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  EXPECT_CODE(client().Unpublish(other, Target("v")), kFailedPrecondition);
  CleanUp(id, Staging("v"), {Target("v")});
  EXPECT_OK(client().DeleteVolume(other));
}

TEST_F(NodeTest, UnstageRefusesWhileSomethingIsMountedBelow) {  // B3
  const std::string id = MakeVolume("v");
  std::filesystem::create_directories(Staging("v") + "/below");
  ASSERT_EQ(mount("other", (Staging("v") + "/below").c_str(), "tmpfs", 0, nullptr), 0);
  EXPECT_CODE(client().Unstage(id, Staging("v")), kFailedPrecondition);
  ASSERT_EQ(umount2((Staging("v") + "/below").c_str(), 0), 0);
  EXPECT_OK(client().Unstage(id, Staging("v")));
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(NodeTest, UnstageOfAFilesystemInUseIsRefusedAndCanBeRepeated) {
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  const int open_file =
      open((Staging("v") + "/file").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  EXPECT_CODE(client().Unstage(id, Staging("v")), kFailedPrecondition);
  close(open_file);
  CleanUp(id, Staging("v"), {});
}

TEST_F(NodeTest, ASecondCallForAVolumeIsAbortedAtOnce) {  // E17
  HoldMkfs();
  const std::string id = MakeVolume("v");
  std::thread first([&] { EXPECT_OK(client().Stage(id, Staging("v"), kExt4)); });
  ASSERT_TRUE(WaitFor([&] { return MkfsStarts() == 1; }));
  EXPECT_CODE(client().Stage(id, Staging("v"), kExt4), kAborted);
  EXPECT_CODE(client().Unstage(id, Staging("v")), kAborted);
  EXPECT_CODE(client().Publish(id, Staging("v"), Target("v"), kExt4), kAborted);
  EXPECT_CODE(client().Unpublish(id, Target("v")), kAborted);
  EXPECT_CODE(client().DeleteVolume(id), kAborted);
  EXPECT_OK(client().Unstage("pool/other", Staging("other"))) << "other volumes are not held up";
  EXPECT_EQ(*client().Probe(), true);
  ReleaseMkfs();
  first.join();
  CleanUp(id, Staging("v"), {});
}

TEST_F(NodeTest, ACallThatIsGivenUpEndsAndCanBeRepeated) {  // E21
  HoldMkfs();
  const std::string id = MakeVolume("v");
  pb::NodeStageVolumeRequest request;
  request.set_volume_id(id);
  request.set_staging_target_path(Staging("v"));
  *request.mutable_volume_capability() = kExt4;
  grpc::ClientContext context;
  std::thread call([&] {
    pb::NodeStageVolumeResponse response;
    EXPECT_EQ(client().node().NodeStageVolume(&context, request, &response).error_code(),
              grpc::StatusCode::CANCELLED);
  });
  ASSERT_TRUE(WaitFor([&] { return MkfsStarts() == 1; }));
  context.TryCancel();
  call.join();
  ReleaseMkfs();
  EXPECT_TRUE(WaitFor([&] { return client().Stage(id, Staging("v"), kExt4).ok(); }));
  EXPECT_EQ(MkfsStarts(), 1);
  CleanUp(id, Staging("v"), {});
}

TEST_F(NodeTest, AtMostTwoVolumesAreFormattedAtATime) {  // F15
  HoldMkfs();
  std::vector<std::thread> calls;
  std::vector<std::string> ids;
  for (const char* name : {"a", "b", "c", "d"}) ids.push_back(MakeVolume(name));
  for (const std::string& id : ids) {
    calls.emplace_back([&, id] { EXPECT_OK(client().Stage(id, Staging(id), kExt4)); });
  }
  EXPECT_TRUE(WaitFor([&] { return MkfsStarts() == 2; }));
  EXPECT_TRUE(WaitFor([&] { return ublkd().attach_count() == 4; }))
      << "all of them came as far as the formatting";
  EXPECT_EQ(MkfsStarts(), 2);
  EXPECT_EQ(*client().Probe(), true);
  ReleaseMkfs();
  for (std::thread& call : calls) call.join();
  for (const std::string& id : ids) CleanUp(id, Staging(id), {});
}

TEST_F(NodeTest, UblkdAwayIsUnavailableAndPublishedVolumesGoOn) {  // E18
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), kExt4));
  ASSERT_OK(client().Publish(id, Staging("v"), Target("v"), kExt4));
  ublkd().Stop();
  EXPECT_CODE(client().Stage(id, Staging("v"), kExt4), kUnavailable);
  EXPECT_CODE(client().Publish(id, Staging("v"), Target("v", "2"), kExt4), kUnavailable);
  WriteText(Target("v") + "/file", "goes on");
  EXPECT_OK(client().Unpublish(id, Target("v"))) << "needs no ublkd";
  EXPECT_CODE(client().Unstage(id, Staging("v")), kUnavailable);
  ublkd().Start();
  EXPECT_OK(client().WaitUntilReady(std::chrono::seconds(10)));
  CleanUp(id, Staging("v"), {});
}

TEST_F(NodeTest, NoSecretIsLogged) {  // E19
  const std::string id = MakeVolume("v");
  pb::NodeStageVolumeRequest request;
  request.set_volume_id(id);
  request.set_staging_target_path(Staging("v"));
  *request.mutable_volume_capability() = kExt4;
  (*request.mutable_secrets())["password"] = "hunter2";
  grpc::ClientContext context;
  pb::NodeStageVolumeResponse response;
  EXPECT_OK(FromGrpc(client().node().NodeStageVolume(&context, request, &response)));
  request.mutable_volume_capability()->mutable_mount()->add_mount_flags("token=hunter2");
  grpc::ClientContext second;
  EXPECT_FALSE(client().node().NodeStageVolume(&second, request, &response).ok());
  const std::string log = CsiLog();
  EXPECT_THAT(log, Not(HasSubstr("hunter2")));
  EXPECT_THAT(log, HasSubstr("\"method\":\"/csi.v1.Node/NodeStageVolume\",\"volume_id\":\"pool/v\","
                             "\"code\":\"OK\",\"duration_ms\":"));
  CleanUp(id, Staging("v"), {});
}

}  // namespace
}  // namespace ublkd::csi
