// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "daemon/volume/volume_manager.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::server {

/// ublkd.v1.VolumeService over the volumes of this node. Any thread.
class VolumeService : public v1::VolumeService::Service {
 public:
  /// `gate` says whether calls are answered yet. `volumes` outlives the service.
  VolumeService(volume::VolumeManager& volumes, std::function<absl::Status()> gate)
      : volumes_(volumes), gate_(std::move(gate)) {}

  grpc::Status CreateVolume(grpc::ServerContext* context, const v1::CreateVolumeRequest* request,
                            v1::Volume* response) override;
  grpc::Status DeleteVolume(grpc::ServerContext* context, const v1::DeleteVolumeRequest* request,
                            v1::DeleteVolumeResponse* response) override;
  grpc::Status GetVolume(grpc::ServerContext* context, const v1::GetVolumeRequest* request,
                         v1::Volume* response) override;
  grpc::Status ListVolumes(grpc::ServerContext* context, const v1::ListVolumesRequest* request,
                           v1::ListVolumesResponse* response) override;
  grpc::Status SetVolumeFormat(grpc::ServerContext* context,
                               const v1::SetVolumeFormatRequest* request,
                               v1::Volume* response) override;
  grpc::Status ResizeVolume(grpc::ServerContext* context, const v1::ResizeVolumeRequest* request,
                            v1::Volume* response) override;
  grpc::Status ListPools(grpc::ServerContext* context, const v1::ListPoolsRequest* request,
                         v1::ListPoolsResponse* response) override;

 private:
  v1::Volume Describe(const volume::Volume& volume) const;
  absl::StatusOr<v1::Volume> Create(const v1::CreateVolumeRequest& request);
  absl::Status Delete(const v1::DeleteVolumeRequest& request);
  absl::StatusOr<v1::Volume> Get(const v1::GetVolumeRequest& request);
  absl::StatusOr<v1::ListVolumesResponse> List(const v1::ListVolumesRequest& request);
  absl::StatusOr<v1::Volume> SetFormat(const v1::SetVolumeFormatRequest& request);
  absl::StatusOr<v1::Volume> Resize(const v1::ResizeVolumeRequest& request);
  absl::StatusOr<v1::ListPoolsResponse> Pools();

  volume::VolumeManager& volumes_;
  const std::function<absl::Status()> gate_;
};

}  // namespace ublkd::server
