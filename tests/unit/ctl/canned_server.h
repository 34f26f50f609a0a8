// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/rpc.h"
#include "tests/unit/ctl/program.h"
#include "ublkd/v1/device.grpc.pb.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::ctl {

/// What the canned services know and were asked. A test changes it before it runs the program and
/// reads it after.
struct CannedState {
  std::vector<v1::Device> devices;
  std::vector<v1::Volume> volumes;
  std::vector<v1::Pool> pools;
  v1::ServerInfo info;

  /// Answer of every call that changes something or gets one thing; absent means success.
  std::optional<grpc::Status> refusal;
  /// Calls do not end until the caller gives up.
  bool hang = false;
  /// Volumes in one page; the request may ask for more.
  size_t page_volumes = 1000;

  std::optional<v1::CreateDeviceRequest> create_device;
  std::optional<v1::SetDeviceLimitsRequest> set_limits;
  std::optional<v1::CreateVolumeRequest> create_volume;
  std::optional<v1::ResizeDeviceRequest> resize_device;
  std::optional<v1::ResizeVolumeRequest> resize_volume;
  std::vector<uint32_t> deleted_devices;
  std::vector<std::string> deleted_volumes;
  std::vector<v1::ListVolumesRequest> list_volumes;
  /// May be read while a call runs.
  std::atomic<int> list_volumes_begun = 0;
};

class CannedDevices : public v1::DeviceService::Service {
 public:
  explicit CannedDevices(CannedState& state) : state_(state) {}
  grpc::Status CreateDevice(grpc::ServerContext*, const v1::CreateDeviceRequest*,
                            v1::Device*) override;
  grpc::Status DeleteDevice(grpc::ServerContext*, const v1::DeleteDeviceRequest*,
                            v1::DeleteDeviceResponse*) override;
  grpc::Status SetDeviceLimits(grpc::ServerContext*, const v1::SetDeviceLimitsRequest*,
                               v1::Device*) override;
  grpc::Status ResizeDevice(grpc::ServerContext*, const v1::ResizeDeviceRequest*,
                            v1::Device*) override;
  grpc::Status GetDevice(grpc::ServerContext*, const v1::GetDeviceRequest*, v1::Device*) override;
  grpc::Status ListDevices(grpc::ServerContext*, const v1::ListDevicesRequest*,
                           v1::ListDevicesResponse*) override;
  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::ServerInfo*) override;

 private:
  CannedState& state_;
};

class CannedVolumes : public v1::VolumeService::Service {
 public:
  explicit CannedVolumes(CannedState& state) : state_(state) {}
  grpc::Status CreateVolume(grpc::ServerContext*, const v1::CreateVolumeRequest*,
                            v1::Volume*) override;
  grpc::Status DeleteVolume(grpc::ServerContext*, const v1::DeleteVolumeRequest*,
                            v1::DeleteVolumeResponse*) override;
  grpc::Status ResizeVolume(grpc::ServerContext*, const v1::ResizeVolumeRequest*,
                            v1::Volume*) override;
  grpc::Status GetVolume(grpc::ServerContext*, const v1::GetVolumeRequest*, v1::Volume*) override;
  grpc::Status ListVolumes(grpc::ServerContext*, const v1::ListVolumesRequest*,
                           v1::ListVolumesResponse*) override;
  grpc::Status ListPools(grpc::ServerContext*, const v1::ListPoolsRequest*,
                         v1::ListPoolsResponse*) override;

 private:
  CannedState& state_;
};

/// A test with a canned ublkd on a socket in a folder of its own, and ublkctl to run against it.
class CtlTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// Runs ublkctl with UBLKD_SOCKET naming the canned server.
  Result Run(const std::vector<std::string>& arguments, Stdout stdout_kind = Stdout::kPipe);
  std::string socket() const { return folder_ + "/ublkd.sock"; }

  std::string folder_;
  CannedState state_;
  CannedDevices devices_{state_};
  CannedVolumes volumes_{state_};
  std::unique_ptr<RpcServer> server_;
};

}  // namespace ublkd::ctl
