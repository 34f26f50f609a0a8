// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "daemon/base/rpc.h"
#include "ublkd/v1/device.grpc.pb.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::csi {

namespace api = ::ublkd::v1;

/// Serves ublkd.v1 as ublkd does, with loop devices over sparse files in the place of ublk devices.
/// It is the seam at which ublkd-csi is tested without the driver. Thread-safe.
class FakeUblkd final : public api::DeviceService::Service, public api::VolumeService::Service {
 public:
  /// Pools are the folders below `pools_folder` that exist when they are asked for.
  FakeUblkd(std::string socket_path, std::string pools_folder);
  ~FakeUblkd() override;

  void Start();
  /// ublkd is not there; devices stay.
  void Stop();

  /// Called at the begin and the end of each call: "CreateDevice:before", "CreateDevice:after".
  using Hook = std::function<void(const std::string& moment)>;
  void SetHook(Hook hook);

  /// The record of a volume, to look at or to change; NOT_FOUND ends the test.
  api::Volume Get(const std::string& id);
  void SetFormat(const std::string& id, const api::Format& format);
  /// What the backend says of the content instead of what is in the file; nullopt ends that.
  void SetContent(const std::string& id, std::optional<api::Content> content);
  std::string FilePath(const std::string& id) const;
  /// Makes the file and the record larger or smaller; the volume must not be attached.
  void Resize(const std::string& id, uint64_t size_bytes);
  /// How often volumes were attached.
  int attach_count() const { return attach_count_; }

  grpc::Status CreateVolume(grpc::ServerContext*, const api::CreateVolumeRequest*,
                            api::Volume*) override;
  grpc::Status DeleteVolume(grpc::ServerContext*, const api::DeleteVolumeRequest*,
                            api::DeleteVolumeResponse*) override;
  grpc::Status GetVolume(grpc::ServerContext*, const api::GetVolumeRequest*, api::Volume*) override;
  grpc::Status ListVolumes(grpc::ServerContext*, const api::ListVolumesRequest*,
                           api::ListVolumesResponse*) override;
  grpc::Status SetVolumeFormat(grpc::ServerContext*, const api::SetVolumeFormatRequest*,
                               api::Volume*) override;
  grpc::Status ListPools(grpc::ServerContext*, const api::ListPoolsRequest*,
                         api::ListPoolsResponse*) override;
  grpc::Status CreateDevice(grpc::ServerContext*, const api::CreateDeviceRequest*,
                            api::Device*) override;
  grpc::Status DeleteDevice(grpc::ServerContext*, const api::DeleteDeviceRequest*,
                            api::DeleteDeviceResponse*) override;
  grpc::Status GetDevice(grpc::ServerContext*, const api::GetDeviceRequest*, api::Device*) override;
  grpc::Status GetServerInfo(grpc::ServerContext*, const api::GetServerInfoRequest*,
                             api::ServerInfo*) override;

 private:
  struct Entry {
    api::Volume volume;
    std::optional<api::Content> content;
    api::Device device;
  };

  /// Calls the hook before and after `body`, which runs alone.
  grpc::Status Serve(const std::string& method, const std::function<absl::Status()>& body);
  absl::StatusOr<Entry*> Find(const std::string& id);
  void Fill(const Entry& entry, api::Volume& volume);

  const std::string socket_path_;
  const std::string pools_folder_;
  std::mutex mutex_;
  std::map<std::string, Entry> volumes_;
  std::mutex hook_mutex_;
  Hook hook_;
  std::atomic<int> attach_count_ = 0;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace ublkd::csi
