// SPDX-License-Identifier: Apache-2.0
//
// The whole server over its socket, with a driver in memory.
#include "daemon/server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "daemon/base/rpc.h"
#include "daemon/ublk/device.h"
#include "tests/unit/server/http_client.h"
#include "tests/unit/volume/device_fixture.h"
#include "tests/unit/volume/fake_devices.h"

namespace ublkd::server {
namespace {

using absl::StatusCode;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using volume::IsOk;
using volume::Refused;

constexpr uint64_t kMiB = 1 << 20;
constexpr char kUuid[] = "01234567-89ab-cdef-0123-456789abcdef";

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    std::filesystem::create_directory(dir_.File("pool"));
    flags_.socket = dir_.File("run/s.sock");
    flags_.state_dir = dir_.File("run");
    flags_.pools = {"p=" + dir_.File("pool")};
    flags_.metrics_address = "off";
    flags_.shutdown_grace_ms = 1;
  }
  void Start() {
    auto server = Server::Start(flags_, factory_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    const auto channel = ConnectToUnixSocket(flags_.socket);
    volumes_ = v1::VolumeService::NewStub(channel);
    devices_ = v1::DeviceService::NewStub(channel);
    ASSERT_TRUE(volume::Eventually([&] { return List({}).ok(); }));
  }

  template <typename Response, typename Stub, typename Method, typename Request>
  absl::StatusOr<Response> Call(Stub& stub, Method method, const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    Response response;
    const absl::Status status = FromGrpc((stub.*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  absl::StatusOr<v1::Volume> Create(const v1::CreateVolumeRequest& request) {
    return Call<v1::Volume>(*volumes_, &v1::VolumeService::Stub::CreateVolume, request);
  }
  absl::StatusOr<v1::Volume> CreateVolume(const std::string& name, uint64_t size_bytes = kMiB) {
    v1::CreateVolumeRequest request;
    request.set_name(name);
    request.set_size_bytes(size_bytes);
    return Create(request);
  }
  absl::Status DeleteVolume(const std::string& id) {
    v1::DeleteVolumeRequest request;
    request.set_id(id);
    return Call<v1::DeleteVolumeResponse>(*volumes_, &v1::VolumeService::Stub::DeleteVolume,
                                          request)
        .status();
  }
  absl::StatusOr<v1::Volume> GetVolume(const std::string& id) {
    v1::GetVolumeRequest request;
    request.set_id(id);
    return Call<v1::Volume>(*volumes_, &v1::VolumeService::Stub::GetVolume, request);
  }
  absl::StatusOr<v1::ListVolumesResponse> List(const v1::ListVolumesRequest& request) {
    return Call<v1::ListVolumesResponse>(*volumes_, &v1::VolumeService::Stub::ListVolumes, request);
  }
  absl::StatusOr<v1::Device> CreateDevice(const v1::DeviceSpec& spec) {
    v1::CreateDeviceRequest request;
    *request.mutable_spec() = spec;
    return Call<v1::Device>(*devices_, &v1::DeviceService::Stub::CreateDevice, request);
  }
  absl::StatusOr<v1::Device> SetDeviceLimits(const v1::SetDeviceLimitsRequest& request) {
    return Call<v1::Device>(*devices_, &v1::DeviceService::Stub::SetDeviceLimits, request);
  }
  absl::Status DeleteDevice(uint32_t id) {
    v1::DeleteDeviceRequest request;
    request.set_id(id);
    return Call<v1::DeleteDeviceResponse>(*devices_, &v1::DeviceService::Stub::DeleteDevice,
                                          request)
        .status();
  }
  absl::StatusOr<v1::ServerInfo> GetServerInfo() {
    return Call<v1::ServerInfo>(*devices_, &v1::DeviceService::Stub::GetServerInfo,
                                v1::GetServerInfoRequest());
  }
  static v1::DeviceSpec Serve(const std::string& volume_id) {
    v1::DeviceSpec spec;
    spec.mutable_volume()->set_volume_id(volume_id);
    return spec;
  }

  volume::TempDir dir_;
  Flags flags_;
  volume::FakeDevices factory_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::VolumeService::Stub> volumes_;
  std::unique_ptr<v1::DeviceService::Stub> devices_;
};

TEST_F(ServerTest, TheLifeOfAVolume) {
  Start();
  v1::CreateVolumeRequest request;
  request.set_name("a");
  request.set_size_bytes(kMiB);
  request.set_provisioning(v1::PROVISIONING_THICK);
  (*request.mutable_labels())["k"] = "v";
  const auto made = Create(request);
  ASSERT_THAT(made, IsOk());
  EXPECT_EQ(made->id(), "p/a");
  EXPECT_EQ(made->pool(), "p");
  EXPECT_EQ(made->logical_block_bytes(), 4096u);
  EXPECT_EQ(made->provisioning(), v1::PROVISIONING_THICK);
  EXPECT_GE(made->allocated_bytes(), kMiB);
  EXPECT_EQ(made->content(), v1::CONTENT_EMPTY);
  EXPECT_EQ(made->format().state(), v1::Format::STATE_NEVER);
  EXPECT_EQ(made->labels().at("k"), "v");
  EXPECT_FALSE(made->has_device_id());
  EXPECT_GT(made->created_at().seconds(), 1'600'000'000);

  const auto device = CreateDevice(Serve("p/a"));
  ASSERT_THAT(device, IsOk());
  EXPECT_EQ(device->path(), "/dev/ublkb0");
  EXPECT_EQ(device->state(), v1::Device::STATE_LIVE);
  EXPECT_EQ(device->spec().volume().volume_id(), "p/a");
  EXPECT_EQ(device->spec().depth(), ublk::DefaultDepth(device->spec().queues()));
  EXPECT_EQ(GetVolume("p/a")->device_id(), 0u);
  EXPECT_THAT(DeleteVolume("p/a"), Refused(StatusCode::kFailedPrecondition, "/dev/ublkb0"));

  v1::SetVolumeFormatRequest format;
  format.set_id("p/a");
  format.set_expected_state(v1::Format::STATE_NEVER);
  format.mutable_format()->set_state(v1::Format::STATE_FORMATTING);
  format.mutable_format()->set_fs_type("ext4");
  format.mutable_format()->set_fs_uuid(kUuid);
  const auto set = Call<v1::Volume>(*volumes_, &v1::VolumeService::Stub::SetVolumeFormat, format);
  ASSERT_THAT(set, IsOk());
  EXPECT_EQ(set->generation(), 2u);
  EXPECT_THAT(Call<v1::Volume>(*volumes_, &v1::VolumeService::Stub::SetVolumeFormat, format),
              Refused(StatusCode::kFailedPrecondition, "expected"));

  EXPECT_THAT(DeleteDevice(0), IsOk());
  EXPECT_THAT(DeleteVolume("p/a"), IsOk());
  EXPECT_THAT(DeleteVolume("p/a"), IsOk());
  EXPECT_THAT(GetVolume("p/a"), Refused(StatusCode::kNotFound, "p/a"));
}

TEST_F(ServerTest, EachBadVolumeRequestHasItsOwnCode) {
  Start();
  ASSERT_THAT(CreateVolume("a"), IsOk());
  EXPECT_THAT(CreateVolume("a", 2 * kMiB), Refused(StatusCode::kAlreadyExists, "size_bytes"));
  EXPECT_THAT(CreateVolume("b", 0), Refused(StatusCode::kInvalidArgument, "size_bytes"));
  EXPECT_THAT(CreateVolume("b", 1000), Refused(StatusCode::kInvalidArgument, "size_bytes"));
  EXPECT_THAT(CreateVolume("../b"), Refused(StatusCode::kInvalidArgument, "name"));
  EXPECT_THAT(CreateVolume("b", uint64_t{1} << 60),
              Refused(StatusCode::kResourceExhausted, "no room"));
  v1::CreateVolumeRequest request;
  request.set_name("b");
  request.set_size_bytes(kMiB);
  request.set_provisioning(static_cast<v1::Provisioning>(77));
  EXPECT_THAT(Create(request), Refused(StatusCode::kInvalidArgument, "provisioning"));
  request.clear_provisioning();
  request.set_pool("none");
  EXPECT_THAT(Create(request), Refused(StatusCode::kNotFound, "pool none"));
  EXPECT_THAT(DeleteVolume("x"), Refused(StatusCode::kInvalidArgument, "id"));
  EXPECT_THAT(GetVolume("p/zz"), Refused(StatusCode::kNotFound, "p/zz"));
  v1::ListVolumesRequest list;
  list.set_page_token("made up");
  EXPECT_THAT(List(list), Refused(StatusCode::kInvalidArgument, "page_token"));
  v1::SetVolumeFormatRequest format;
  format.set_id("p/a");
  format.set_expected_state(static_cast<v1::Format::State>(9));
  EXPECT_THAT(Call<v1::Volume>(*volumes_, &v1::VolumeService::Stub::SetVolumeFormat, format),
              Refused(StatusCode::kInvalidArgument, "expected_state"));
}

TEST_F(ServerTest, ADeviceNeedsATarget) {
  Start();
  EXPECT_THAT(CreateDevice({}), Refused(StatusCode::kInvalidArgument, "spec.target"));
  v1::DeviceSpec spec;
  spec.mutable_null()->set_size_bytes(kMiB);
  spec.set_depth(100'000);
  EXPECT_THAT(CreateDevice(spec), Refused(StatusCode::kInvalidArgument, "spec.depth"));
  spec.set_depth(0);
  spec.set_id(4);
  ASSERT_THAT(CreateDevice(spec), IsOk());
  EXPECT_THAT(CreateDevice(spec), Refused(StatusCode::kAlreadyExists, "id 4"));
  factory_.SetInUse(4, true);
  EXPECT_THAT(DeleteDevice(4), Refused(StatusCode::kFailedPrecondition, "unmount"));
}

TEST_F(ServerTest, LimitsOfADevice) {
  Start();
  v1::DeviceSpec spec;
  spec.mutable_null()->set_size_bytes(kMiB);
  auto device = CreateDevice(spec);
  ASSERT_THAT(device, IsOk());
  EXPECT_TRUE(device->spec().has_limits()) << "that there are none is said, too";
  EXPECT_EQ(device->spec().limits().iops(), 0u);
  spec.mutable_limits()->set_bytes_per_second(kMiB);
  device = CreateDevice(spec);
  ASSERT_THAT(device, IsOk());
  EXPECT_EQ(device->spec().limits().bytes_per_second(), kMiB);
  EXPECT_EQ(device->spec().limits().burst_bytes(), kMiB / 10);

  v1::SetDeviceLimitsRequest request;
  request.set_id(device->id());
  EXPECT_THAT(SetDeviceLimits(request),
              Refused(StatusCode::kInvalidArgument, "limits: is missing"));
  request.mutable_limits()->set_burst_ios(3);
  EXPECT_THAT(SetDeviceLimits(request), Refused(StatusCode::kInvalidArgument, "limits.burst_ios"));
  request.mutable_limits()->set_iops(30);
  device = SetDeviceLimits(request);
  ASSERT_THAT(device, IsOk());
  EXPECT_EQ(device->spec().limits().iops(), 30u);
  EXPECT_EQ(device->spec().limits().burst_ios(), 3u);
  EXPECT_EQ(device->spec().limits().bytes_per_second(), 0u) << "all of them are replaced";
  request.set_id(99);
  EXPECT_THAT(SetDeviceLimits(request), Refused(StatusCode::kNotFound, "device 99"));
}

TEST_F(ServerTest, VolumesAndDevicesGrow) {
  Start();
  const auto resize_volume = [&](const std::string& id, uint64_t size_bytes) {
    v1::ResizeVolumeRequest request;
    request.set_id(id);
    request.set_size_bytes(size_bytes);
    return Call<v1::Volume>(*volumes_, &v1::VolumeService::Stub::ResizeVolume, request);
  };
  const auto resize_device = [&](uint32_t id, uint64_t size_bytes) {
    v1::ResizeDeviceRequest request;
    request.set_id(id);
    request.set_size_bytes(size_bytes);
    return Call<v1::Device>(*devices_, &v1::DeviceService::Stub::ResizeDevice, request);
  };
  ASSERT_THAT(CreateVolume("a"), IsOk());
  EXPECT_FALSE(resize_volume("p/a", 2 * kMiB)->has_device_size_bytes());
  ASSERT_THAT(CreateDevice(Serve("p/a")), IsOk());
  const auto grown = resize_volume("p/a", 3 * kMiB);
  ASSERT_THAT(grown, IsOk());
  EXPECT_EQ(grown->size_bytes(), 3 * kMiB);
  EXPECT_EQ(grown->device_size_bytes(), 3 * kMiB);
  EXPECT_THAT(resize_volume("p/a", kMiB), Refused(StatusCode::kInvalidArgument, "size_bytes"));
  EXPECT_THAT(resize_volume("p/a", uint64_t{1} << 60),
              Refused(StatusCode::kResourceExhausted, "no room"));
  EXPECT_THAT(resize_volume("p/zz", kMiB), Refused(StatusCode::kNotFound, "p/zz"));
  EXPECT_THAT(resize_device(0, 4 * kMiB), Refused(StatusCode::kFailedPrecondition, "p/a"));

  v1::DeviceSpec null;
  null.mutable_null()->set_size_bytes(kMiB);
  ASSERT_THAT(CreateDevice(null), IsOk());
  const auto larger = resize_device(1, 2 * kMiB);
  ASSERT_THAT(larger, IsOk());
  EXPECT_EQ(larger->size_bytes(), 2 * kMiB);
  EXPECT_EQ(larger->spec().null().size_bytes(), 2 * kMiB);
  EXPECT_THAT(resize_device(1, kMiB), Refused(StatusCode::kInvalidArgument, "shrink"));
  EXPECT_THAT(resize_device(9, kMiB), Refused(StatusCode::kNotFound, "device 9"));
}

TEST_F(ServerTest, WithoutADriverVolumesAreServedAndDevicesSayWhatToDo) {
  factory_.SetState(absl::UnavailableError("the ublk driver is not loaded: modprobe ublk_drv"));
  flags_.metrics_address = "127.0.0.1:0";
  Start();
  const uint16_t port = server_->http_port();
  EXPECT_THAT(CreateVolume("a"), IsOk());
  EXPECT_THAT(CreateDevice(Serve("p/a")), Refused(StatusCode::kUnavailable, "modprobe"));
  const auto info = GetServerInfo();
  ASSERT_THAT(info, IsOk());
  EXPECT_FALSE(info->ready());
  EXPECT_THAT(info->reason(), HasSubstr("modprobe"));
  EXPECT_THAT(Get(port, "/readyz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(Get(port, "/readyz"), HasSubstr("modprobe"));
  EXPECT_THAT(Get(port, "/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Get(port, "/metrics"), HasSubstr("ublkd_build_info{"));

  factory_.SetState(absl::OkStatus());
  EXPECT_TRUE(volume::Eventually([&] { return GetServerInfo()->ready(); }));
  EXPECT_THAT(Get(port, "/readyz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(GetServerInfo()->driver_version(), "1.2.3");
  EXPECT_EQ(GetServerInfo()->driver_features(0), "CMD_IOCTL_ENCODE");
  EXPECT_THAT(CreateDevice(Serve("p/a")), IsOk());
  EXPECT_THAT(Get(port, "/metrics"), HasSubstr("volume_id=\"p/a\""));
}

TEST_F(ServerTest, TheSocketIsPrivateAndGoneAfterStop) {
  Start();
  struct stat facts;
  ASSERT_EQ(stat(flags_.socket.c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 0777, 0600u);
  v1::DeviceSpec spec;
  spec.mutable_null()->set_size_bytes(kMiB);
  ASSERT_THAT(CreateDevice(spec), IsOk());
  factory_.SetInUse(0, true);
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(flags_.socket));
  EXPECT_TRUE(factory_.kernel().empty());
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("run/devices")));
}

TEST_F(ServerTest, ASocketOrAddressInUseIsNamed) {
  flags_.metrics_address = "127.0.0.1:0";
  Start();
  Flags other = flags_;
  other.pools.clear();
  other.state_dir = dir_.File("run2");
  other.metrics_address = "off";
  EXPECT_THAT(Server::Start(other, factory_), Refused(StatusCode::kAlreadyExists, "s.sock"));
  other.socket = dir_.File("run2/s.sock");
  other.metrics_address = "127.0.0.1:" + std::to_string(server_->http_port());
  EXPECT_THAT(Server::Start(other, factory_),
              Refused(StatusCode::kUnavailable, other.metrics_address));
  other.metrics_address = "off";
  other.pools = flags_.pools;
  EXPECT_THAT(Server::Start(other, factory_),
              Refused(StatusCode::kFailedPrecondition, "another ublkd"));
  other.pools.clear();
  other.default_queues = 1'000'000;
  EXPECT_THAT(Server::Start(other, factory_),
              Refused(StatusCode::kInvalidArgument, "--default-queues"));
  other.default_queues = 0;
  EXPECT_THAT(Server::Start(other, factory_), IsOk());
}

TEST_F(ServerTest, PoolsAndPagesAreListed) {
  Start();
  for (const char* name : {"c", "a", "b"}) ASSERT_THAT(CreateVolume(name), IsOk());
  v1::ListVolumesRequest request;
  request.set_page_size(2);
  const auto first = List(request);
  ASSERT_THAT(first, IsOk());
  ASSERT_EQ(first->volumes_size(), 2);
  EXPECT_EQ(first->volumes(0).id(), "p/a");
  request.set_page_token(first->next_page_token());
  const auto second = List(request);
  ASSERT_EQ(second->volumes_size(), 1);
  EXPECT_EQ(second->volumes(0).id(), "p/c");
  EXPECT_EQ(second->next_page_token(), "");
  const auto pools = Call<v1::ListPoolsResponse>(*volumes_, &v1::VolumeService::Stub::ListPools,
                                                 v1::ListPoolsRequest());
  ASSERT_THAT(pools, IsOk());
  ASSERT_EQ(pools->pools_size(), 1);
  EXPECT_EQ(pools->pools(0).volumes(), 3u);
  EXPECT_EQ(pools->pools(0).type(), "file");
  EXPECT_GT(pools->pools(0).total_bytes(), pools->pools(0).available_bytes());
}

}  // namespace
}  // namespace ublkd::server
