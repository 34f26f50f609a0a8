// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>

#include <filesystem>

#include "tests/unit/ctl/canned_server.h"

namespace ublkd::ctl {
namespace {

using google::protobuf::util::MessageDifferencer;

class CtlRequest : public CtlTest {
 protected:
  // What `ublkctl device create` sends for `arguments`.
  v1::DeviceSpec Spec(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"device", "create"});
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "/dev/ublkb0\n") << "only the path, for use in other commands";
    return state_.create_device.value_or(v1::CreateDeviceRequest()).spec();
  }
};

TEST_F(CtlRequest, AVolumeIsAttachedWithTheDefaultsOfTheServer) {
  v1::DeviceSpec expected;
  expected.mutable_volume()->set_volume_id("fast/db");
  const v1::DeviceSpec sent = Spec({"--volume", "fast/db"});
  EXPECT_TRUE(MessageDifferencer::Equals(sent, expected)) << sent.DebugString();
}

TEST_F(CtlRequest, EveryOptionOfADeviceIsSent) {
  v1::DeviceSpec expected;
  expected.mutable_null()->set_size_bytes(uint64_t{10} << 30);
  expected.set_id(7);
  expected.set_queues(4);
  expected.set_depth(64);
  expected.set_threads_per_queue(2);
  expected.set_max_io_bytes(1 << 20);
  expected.set_logical_block_bytes(4096);
  expected.set_read_only(true);
  expected.set_buffer_mode(v1::BUFFER_MODE_COPY);
  expected.set_fail_after_seconds(300);
  expected.mutable_limits()->set_iops(5000);
  expected.mutable_limits()->set_burst_ios(9000);
  expected.mutable_limits()->set_bytes_per_second(100 << 20);
  expected.mutable_limits()->set_burst_bytes(1 << 30);
  const v1::DeviceSpec sent = Spec({"--null",
                                    "10GiB",
                                    "--id",
                                    "7",
                                    "--queues",
                                    "4",
                                    "--depth",
                                    "64",
                                    "--threads-per-queue",
                                    "2",
                                    "--max-io",
                                    "1MiB",
                                    "--block-size",
                                    "4KiB",
                                    "--read-only",
                                    "--iops-limit",
                                    "5000",
                                    "--iops-burst",
                                    "9000",
                                    "--bandwidth-limit",
                                    "100MiB",
                                    "--bandwidth-burst",
                                    "1GiB",
                                    "--buffers",
                                    "copy",
                                    "--fail-after",
                                    "5m"});
  EXPECT_TRUE(MessageDifferencer::Equals(sent, expected)) << sent.DebugString();
}

TEST_F(CtlRequest, LimitsThatAreNotNamedStay) {
  // Device 12 has both limits.
  const auto sent = [this](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"device", "limit", "/dev/ublkb12"});
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(state_.set_limits->id(), 12u);
    EXPECT_TRUE(state_.set_limits->has_limits());
    const v1::DeviceLimits& limits = state_.set_limits->limits();
    return std::vector<uint64_t>{limits.iops(), limits.burst_ios(), limits.bytes_per_second(),
                                 limits.burst_bytes()};
  };
  using testing::ElementsAre;
  EXPECT_THAT(sent({"--iops-limit", "5"}), ElementsAre(5, 0, 10 << 20, 1 << 20))
      << "another limit has another burst";
  EXPECT_THAT(sent({"--iops-burst", "5"}), ElementsAre(1000, 5, 10 << 20, 1 << 20));
  EXPECT_THAT(sent({"--bandwidth-limit", "1MiB", "--bandwidth-burst=8KiB"}),
              ElementsAre(1000, 100, 1 << 20, 8192));
  EXPECT_THAT(sent({"--bandwidth-limit", "0"}), ElementsAre(1000, 100, 0, 0));
  EXPECT_THAT(sent({"--none"}), ElementsAre(0, 0, 0, 0));
}

TEST_F(CtlRequest, IdZeroIsNotTheSameAsNoId) {
  EXPECT_TRUE(Spec({"--null", "1MiB", "--id", "0"}).has_id());
  EXPECT_FALSE(Spec({"--null", "1MiB"}).has_id());
}

TEST_F(CtlRequest, ToWaitForEverIsNotTheSameAsToSayNothing) {
  EXPECT_EQ(Spec({"--null", "1MiB", "--fail-after", "wait"}).fail_after_seconds(), 0u);
  EXPECT_TRUE(Spec({"--null", "1MiB", "--fail-after", "wait"}).has_fail_after_seconds());
  EXPECT_FALSE(Spec({"--null", "1MiB"}).has_fail_after_seconds());
}

TEST_F(CtlRequest, ARelativeFileIsSentAsAnAbsolutePath) {
  const std::string here = std::filesystem::current_path();
  EXPECT_EQ(Spec({"--file", "disks/../a.img"}).file().path(), here + "/a.img");
  EXPECT_EQ(Spec({"--file", "/srv/b.img"}).file().path(), "/srv/b.img");
}

TEST_F(CtlRequest, AVolumeIsCreatedWithItsPoolAndLabels) {
  const Result result = Run({"volume", "create", "fast/log", "--size", "512MiB", "--block-size",
                             "512", "--thick", "--label", "team=search", "--label", "note=a=b"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "fast/log\n");
  v1::CreateVolumeRequest expected;
  expected.set_pool("fast");
  expected.set_name("log");
  expected.set_size_bytes(uint64_t{512} << 20);
  expected.set_logical_block_bytes(512);
  expected.set_provisioning(v1::PROVISIONING_THICK);
  (*expected.mutable_labels())["team"] = "search";
  (*expected.mutable_labels())["note"] = "a=b";
  ASSERT_TRUE(state_.create_volume.has_value());
  EXPECT_TRUE(MessageDifferencer::Equals(*state_.create_volume, expected))
      << state_.create_volume->DebugString();
}

TEST_F(CtlRequest, ANewSizeIsSent) {
  EXPECT_EQ(Run({"volume", "resize", "fast/db", "--size", "20GiB"}).exit_code, 0);
  ASSERT_TRUE(state_.resize_volume.has_value());
  EXPECT_EQ(state_.resize_volume->id(), "fast/db");
  EXPECT_EQ(state_.resize_volume->size_bytes(), uint64_t{20} << 30);
  EXPECT_EQ(Run({"device", "resize", "/dev/ublkb12", "--size", "3GiB"}).exit_code, 0);
  ASSERT_TRUE(state_.resize_device.has_value());
  EXPECT_EQ(state_.resize_device->id(), 12u);
  EXPECT_EQ(state_.resize_device->size_bytes(), uint64_t{3} << 30);
  EXPECT_EQ(Run({"device", "resize", "0"}).exit_code, 0);
  EXPECT_EQ(state_.resize_device->size_bytes(), 0u) << "all that the file has";
}

TEST_F(CtlRequest, AVolumeWithoutAPoolGoesToTheOnlyPool) {
  const Result result = Run({"volume", "create", "db", "--size=10GiB"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  ASSERT_TRUE(state_.create_volume.has_value());
  EXPECT_EQ(state_.create_volume->pool(), "");
  EXPECT_EQ(state_.create_volume->name(), "db");
  EXPECT_EQ(state_.create_volume->provisioning(), v1::PROVISIONING_THIN);
}

TEST_F(CtlRequest, ALongListOfVolumesIsFetchedPageByPage) {
  state_.page_volumes = 1;
  const Result result = Run({"volume", "list", "-o", "json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* id : {"bulk/archive", "fast/db", "fast/log"}) {
    EXPECT_THAT(result.out, testing::HasSubstr(std::string("\"id\": \"") + id + "\""));
  }
  EXPECT_EQ(state_.list_volumes.size(), 3u) << "three volumes on pages of one";
}

TEST_F(CtlRequest, VolumesOfOnePoolAreAskedFromTheServer) {
  EXPECT_EQ(Run({"volume", "list", "--pool", "bulk"}).exit_code, 0);
  ASSERT_EQ(state_.list_volumes.size(), 1u);
  EXPECT_EQ(state_.list_volumes.front().pool(), "bulk");
}

TEST_F(CtlRequest, ADeviceIsNamedByIdOrPath) {
  EXPECT_EQ(Run({"device", "delete", "0", "ublkb12"}).exit_code, 0);
  EXPECT_EQ(Run({"device", "delete", "/dev/ublkb12"}).exit_code, 0);
  EXPECT_EQ(state_.deleted_devices, (std::vector<uint32_t>{0, 12, 12}));
}

TEST_F(CtlRequest, GlobalOptionsStandBeforeOrBehindTheCommand) {
  EXPECT_EQ(Run({"-o", "json", "device", "list"}).out.substr(0, 1), "[");
  EXPECT_EQ(Run({"device", "-o", "json", "list"}).out.substr(0, 1), "[");
  EXPECT_EQ(Run({"device", "list", "--output=json"}).out.substr(0, 1), "[");
}

TEST_F(CtlRequest, TheSocketOfTheFlagWinsOverTheVariable) {
  const Result result = RunProgram({UBLKCTL_PROGRAM, "info", "--socket", socket()},
                                   {{"UBLKD_SOCKET", "/nonexistent/ublkd.sock"}});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

}  // namespace
}  // namespace ublkd::ctl
