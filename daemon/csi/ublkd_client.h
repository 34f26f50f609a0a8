// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/csi/blockdev.h"
#include "ublkd/v1/device.grpc.pb.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::csi {

namespace api = ::ublkd::v1;

/// True for "<pool>/<name>" as ublkd makes them. Any other id belongs to no volume.
bool IsVolumeId(absl::string_view id);

/// NOT_FOUND for an id that no volume has.
absl::Status UnknownVolume(absl::string_view id);

/// Calls ublkd, each call with a deadline. Errors are ublkd's; UNAVAILABLE with the socket's path
/// when it does not answer. Any thread may call.
class UblkdClient {
 public:
  explicit UblkdClient(const std::string& socket_path);

  absl::StatusOr<api::ServerInfo> GetServerInfo() const;

  absl::StatusOr<api::Volume> CreateVolume(const api::CreateVolumeRequest& request) const;
  absl::Status DeleteVolume(const std::string& id) const;
  /// NOT_FOUND also for what is no volume id.
  absl::StatusOr<api::Volume> GetVolume(const std::string& id) const;
  absl::StatusOr<api::ListVolumesResponse> ListVolumes(
      const api::ListVolumesRequest& request) const;
  absl::StatusOr<std::vector<api::Pool>> ListPools() const;
  absl::StatusOr<api::Volume> SetVolumeFormat(const std::string& id, api::Format::State expected,
                                              api::Format::State state, const std::string& fs_type,
                                              const std::string& fs_uuid) const;

  /// Attaches the volume, or gives the device that serves it already in the same way.
  absl::StatusOr<BlockDevice> AttachVolume(const std::string& id, bool read_only) const;
  absl::StatusOr<api::Device> GetDevice(uint32_t id) const;
  absl::Status DetachDevice(uint32_t id) const;

 private:
  template <typename Response, typename Stub, typename Request>
  absl::StatusOr<Response> Call(Stub& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, std::chrono::seconds deadline) const;

  const std::string socket_path_;
  const std::unique_ptr<api::DeviceService::Stub> devices_;
  const std::unique_ptr<api::VolumeService::Stub> volumes_;
};

}  // namespace ublkd::csi
