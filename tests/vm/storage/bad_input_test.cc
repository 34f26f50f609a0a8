// SPDX-License-Identifier: Apache-2.0
//
// Each mistake gets its own status code and one sentence, changes nothing and leaks nothing.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>

#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using ublkd::v1::DeviceSpec;

class BadInput : public NodeTest {
 protected:
  void SetUp() override {
    NodeTest::SetUp();
    ASSERT_FALSE(HasFatalFailure());
    folder_ = std::string(kRoot) + "/files";
    ASSERT_OK(MakeDirectories(folder_));
    ASSERT_OK(RunCommand({"truncate", "-s", "16M", folder_ + "/good"}));
    ASSERT_OK(RunCommand({"truncate", "-s", "0", folder_ + "/empty"}));
    ASSERT_OK(RunCommand({"truncate", "-s", "1000", folder_ + "/odd"}));
  }

  grpc::Status Create(const DeviceSpec& spec, ublkd::v1::Device* device = nullptr) {
    ublkd::v1::CreateDeviceRequest request;
    *request.mutable_spec() = spec;
    ublkd::v1::Device ignored;
    grpc::ClientContext context;
    return node_->devices().CreateDevice(&context, request, device != nullptr ? device : &ignored);
  }

  grpc::Status Delete(uint32_t id) {
    ublkd::v1::DeleteDeviceRequest request;
    request.set_id(id);
    ublkd::v1::DeleteDeviceResponse response;
    grpc::ClientContext context;
    return node_->devices().DeleteDevice(&context, request, &response);
  }

  static DeviceSpec File(const std::string& path) {
    DeviceSpec spec;
    spec.mutable_file()->set_path(path);
    return spec;
  }

  static DeviceSpec Null(const std::function<void(DeviceSpec&)>& change) {
    DeviceSpec spec;
    spec.mutable_null()->set_size_bytes(16 << 20);
    change(spec);
    return spec;
  }

  std::string folder_;
};

TEST_F(BadInput, IsRefusedBySentenceAndLeaksNothing) {
  ublkd::v1::Device taken;
  ASSERT_TRUE(Create(Null([](DeviceSpec& spec) { spec.set_id(7); }), &taken).ok());

  struct Mistake {
    const char* name;
    DeviceSpec spec;
    grpc::StatusCode code;
    std::string named;  // what the sentence must name
  };
  DeviceSpec unknown_volume;
  unknown_volume.mutable_volume()->set_volume_id("local/absent");
  DeviceSpec escaping_volume;
  escaping_volume.mutable_volume()->set_volume_id("local/../../etc/passwd");
  const std::vector<Mistake> mistakes = {
      {"no target", DeviceSpec(), grpc::INVALID_ARGUMENT, "target"},
      {"missing file", File(folder_ + "/absent"), grpc::NOT_FOUND, "absent"},
      {"a directory", File(folder_), grpc::FAILED_PRECONDITION, folder_},
      {"size 0", File(folder_ + "/empty"), grpc::FAILED_PRECONDITION, "empty"},
      {"no multiple of a block", File(folder_ + "/odd"), grpc::INVALID_ARGUMENT, "odd"},
      {"relative path", File("good"), grpc::INVALID_ARGUMENT, "good"},
      {"character device", File("/dev/zero"), grpc::FAILED_PRECONDITION, "/dev/zero"},
      {"null of size 0", Null([](DeviceSpec& s) { s.mutable_null()->set_size_bytes(0); }),
       grpc::INVALID_ARGUMENT, "size"},
      {"id in use", Null([](DeviceSpec& s) { s.set_id(7); }), grpc::ALREADY_EXISTS, "7"},
      {"too many queues", Null([](DeviceSpec& s) { s.set_queues(5000); }), grpc::INVALID_ARGUMENT,
       "queues"},
      {"too deep", Null([](DeviceSpec& s) { s.set_depth(5000); }), grpc::INVALID_ARGUMENT, "depth"},
      {"odd block size", Null([](DeviceSpec& s) { s.set_logical_block_bytes(1000); }),
       grpc::INVALID_ARGUMENT, "block"},
      {"odd request size", Null([](DeviceSpec& s) { s.set_max_io_bytes(1000); }),
       grpc::INVALID_ARGUMENT, "max_io_bytes"},
      {"unknown volume", unknown_volume, grpc::NOT_FOUND, "absent"},
      {"escaping volume", escaping_volume, grpc::INVALID_ARGUMENT, "volume"},
  };

  // The first refusal may start a library's helper threads; they are no leak.
  static_cast<void>(Create(mistakes[0].spec));
  const Belongings before = TakeStock({folder_, node_->pool_dir(), std::string(kRoot) + "/state"});
  const ProcessUse use_before = UseOf(node_->daemon().pid());
  for (const Mistake& mistake : mistakes) {
    const grpc::Status status = Create(mistake.spec);
    EXPECT_EQ(status.error_code(), mistake.code) << mistake.name << ": " << status.error_message();
    EXPECT_NE(status.error_message().find(mistake.named), std::string::npos)
        << mistake.name << ": the sentence does not name it: " << status.error_message();
  }
  EXPECT_EQ(
      Differences(before, TakeStock({folder_, node_->pool_dir(), std::string(kRoot) + "/state"})),
      "");
  EXPECT_TRUE(Eventually(
      [&] {
        const ProcessUse use = UseOf(node_->daemon().pid());
        return use.descriptors <= use_before.descriptors &&
               use.queue_threads <= use_before.queue_threads;
      },
      std::chrono::seconds(20)))
      << "descriptors " << use_before.descriptors << " -> "
      << UseOf(node_->daemon().pid()).descriptors << ", threads " << use_before.queue_threads
      << " -> " << UseOf(node_->daemon().pid()).queue_threads;
  EXPECT_TRUE(Delete(7).ok());
}

TEST_F(BadInput, AReadOnlyFileServesOnlyReadOnlyDevices) {
  const std::string path = folder_ + "/good";
  ASSERT_OK(RunCommand({"mount", "--bind", folder_, folder_}));
  ASSERT_OK(RunCommand({"mount", "-o", "remount,bind,ro", folder_}));
  // ublkd keeps the mounts of its start: this one is seen by a new one only.
  ASSERT_OK(node_->Stop());
  ASSERT_OK(node_->StartDaemon());
  const grpc::Status refused = Create(File(path));
  EXPECT_EQ(refused.error_code(), grpc::FAILED_PRECONDITION) << refused.error_message();
  DeviceSpec read_only = File(path);
  read_only.set_read_only(true);
  ublkd::v1::Device device;
  const grpc::Status served = Create(read_only, &device);
  EXPECT_TRUE(served.ok()) << served.error_message();
  EXPECT_EQ(*RunCommand({"blockdev", "--getro", device.path()}), "1\n");
  EXPECT_TRUE(Delete(device.id()).ok());
  ASSERT_OK(node_->Stop());
  ASSERT_OK(RunCommand({"umount", folder_}));
}

TEST_F(BadInput, OneFileIsServedByOneDeviceOnly) {
  ublkd::v1::Device device;
  ASSERT_TRUE(Create(File(folder_ + "/good"), &device).ok());
  ublkd::v1::Device again;
  EXPECT_TRUE(Create(File(folder_ + "/good"), &again).ok()) << "the same way again is no mistake";
  EXPECT_EQ(again.id(), device.id());
  DeviceSpec differently = File(folder_ + "/good");
  differently.set_read_only(true);
  const grpc::Status refused = Create(differently);
  EXPECT_EQ(refused.error_code(), grpc::ALREADY_EXISTS) << refused.error_message();
  EXPECT_TRUE(Delete(device.id()).ok());
}

TEST_F(BadInput, AnOpenOrMountedDeviceIsNotDeleted) {
  ublkd::v1::Device device;
  ASSERT_TRUE(Create(File(folder_ + "/good"), &device).ok());
  {
    const auto opened = OpenFile(device.path(), O_RDWR);
    ASSERT_OK(opened);
    const grpc::Status refused = Delete(device.id());
    EXPECT_EQ(refused.error_code(), grpc::FAILED_PRECONDITION) << refused.error_message();
  }
  ASSERT_OK(RunCommand({"mkfs.ext4", "-q", device.path()}));
  const std::string mount_point = folder_ + "/mnt";
  ASSERT_OK(MakeDirectories(mount_point));
  ASSERT_OK(RunCommand({"mount", device.path(), mount_point}));
  const grpc::Status refused = Delete(device.id());
  EXPECT_EQ(refused.error_code(), grpc::FAILED_PRECONDITION) << refused.error_message();
  EXPECT_NE(refused.error_message().find(device.path()), std::string::npos)
      << refused.error_message();
  ASSERT_OK(WriteFileAtomically(mount_point + "/still", "here"));
  ASSERT_OK(RunCommand({"umount", mount_point}));
  EXPECT_TRUE(Delete(device.id()).ok());
  EXPECT_TRUE(Delete(device.id()).ok()) << "deleting again must be no error";
}

TEST_F(BadInput, APoolThatIsFullSaysSo) {
  PodVolume volume = Volume("huge", "ext4", int64_t{1} << 50);
  const absl::Status refused = volume.Create();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_NE(refused.message().find("local"), absl::string_view::npos) << refused;
}

TEST_F(BadInput, ASocketInUseIsRefusedAndTheFirstServerStays) {
  const auto second = RunCommand({"/opt/ublkd/bin/ublkd", "--socket=" + node_->daemon_socket(),
                                  "--state-dir=/tmp/second", "--metrics-address=off"});
  EXPECT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(node_->daemon_socket()), absl::string_view::npos)
      << second.status();
  EXPECT_TRUE(node_->Fetch("/readyz").ok());
}

// The kernel's own driver of 6.12 is one: a server that is killed under it can take the machine
// along.
TEST_F(BadInput, AnOldDriverIsRefusedUntilOursIsLoaded) {
  const char* const ours = std::getenv("UBLK_DRV_KO");
  if (ours == nullptr || !RunCommand({"modprobe", "--dry-run", "--quiet", "ublk_drv"}).ok()) {
    GTEST_SKIP() << "there is no other driver than the one that is loaded";
  }
  ASSERT_OK(node_->StopDaemon());
  ASSERT_OK(RunCommand({"rmmod", "ublk_drv"}));
  ASSERT_OK(RunCommand({"modprobe", "ublk_drv"}));
  ASSERT_OK(node_->StartDaemon());
  ublkd::v1::ServerInfo info;
  EXPECT_TRUE(Eventually(
      [&] {
        grpc::ClientContext context;
        return node_->devices().GetServerInfo(&context, {}, &info).ok() &&
               (info.ready() || info.reason().find("too old") != std::string::npos);
      },
      std::chrono::seconds(30)))
      << info.reason();
  if (!info.ready()) {
    const grpc::Status refused = Create(Null([](DeviceSpec&) {}));
    EXPECT_EQ(refused.error_code(), grpc::UNAVAILABLE) << refused.error_message();
  }
  ASSERT_OK(node_->StopDaemon());
  ASSERT_OK(RunCommand({"rmmod", "ublk_drv"}));
  ASSERT_OK(RunCommand({"insmod", ours}));
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
}

}  // namespace
}  // namespace ublkd::test
