// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "daemon/volume/device_manager.h"
#include "ublkd/v1/device.grpc.pb.h"

namespace ublkd::server {

/// ublkd.v1.DeviceService over the devices of this node. Any thread.
class DeviceService : public v1::DeviceService::Service {
 public:
  /// `devices` outlives the service.
  explicit DeviceService(volume::DeviceManager& devices) : devices_(devices) {}

  grpc::Status CreateDevice(grpc::ServerContext* context, const v1::CreateDeviceRequest* request,
                            v1::Device* response) override;
  grpc::Status DeleteDevice(grpc::ServerContext* context, const v1::DeleteDeviceRequest* request,
                            v1::DeleteDeviceResponse* response) override;
  grpc::Status SetDeviceLimits(grpc::ServerContext* context,
                               const v1::SetDeviceLimitsRequest* request,
                               v1::Device* response) override;
  grpc::Status ResizeDevice(grpc::ServerContext* context, const v1::ResizeDeviceRequest* request,
                            v1::Device* response) override;
  grpc::Status GetDevice(grpc::ServerContext* context, const v1::GetDeviceRequest* request,
                         v1::Device* response) override;
  grpc::Status ListDevices(grpc::ServerContext* context, const v1::ListDevicesRequest* request,
                           v1::ListDevicesResponse* response) override;
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest* request,
                             v1::ServerInfo* response) override;

 private:
  volume::DeviceManager& devices_;
};

/// Release of the running kernel.
std::string KernelRelease();

}  // namespace ublkd::server
