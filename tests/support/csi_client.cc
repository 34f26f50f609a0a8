// SPDX-License-Identifier: Apache-2.0
#include "tests/support/csi_client.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "daemon/base/rpc.h"
#include "daemon/base/status.h"

namespace ublkd::test {
namespace {

namespace pb = ::csi::v1;

// kubelet's.
constexpr std::chrono::minutes kCallDeadline{2};
constexpr std::chrono::milliseconds kProbeInterval{20};

struct Context : grpc::ClientContext {
  Context() { set_deadline(std::chrono::system_clock::now() + kCallDeadline); }
};

}  // namespace

CsiClient::CsiClient(const std::string& socket_path)
    : identity_(pb::Identity::NewStub(ConnectToUnixSocket(socket_path))),
      controller_(pb::Controller::NewStub(ConnectToUnixSocket(socket_path))),
      node_(pb::Node::NewStub(ConnectToUnixSocket(socket_path))) {}

CsiClient::Capability CsiClient::Mount(const std::string& fs_type, Mode mode,
                                       const std::vector<std::string>& mount_flags) {
  Capability capability;
  capability.mutable_mount()->set_fs_type(fs_type);
  for (const std::string& flag : mount_flags) capability.mutable_mount()->add_mount_flags(flag);
  capability.mutable_access_mode()->set_mode(mode);
  return capability;
}

CsiClient::Capability CsiClient::Block(Mode mode) {
  Capability capability;
  capability.mutable_block();
  capability.mutable_access_mode()->set_mode(mode);
  return capability;
}

absl::StatusOr<bool> CsiClient::Probe() {
  Context context;
  pb::ProbeResponse response;
  UBLKD_RETURN_IF_ERROR(FromGrpc(identity_->Probe(&context, {}, &response)));
  return response.ready().value();
}

absl::Status CsiClient::WaitUntilReady(std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  for (;;) {
    const absl::StatusOr<bool> ready = Probe();
    if (ready.ok() && *ready) return absl::OkStatus();
    if (std::chrono::steady_clock::now() > end) {
      return absl::DeadlineExceededError(
          absl::StrCat("the plugin is not ready after ", deadline.count(),
                       " ms: ", ready.ok() ? "it says that it is not" : ready.status().message()));
    }
    std::this_thread::sleep_for(kProbeInterval);
  }
}

absl::StatusOr<std::string> CsiClient::CreateVolume(const std::string& name, int64_t size_bytes,
                                                    const Capability& capability,
                                                    const Parameters& parameters) {
  pb::CreateVolumeRequest request;
  request.set_name(name);
  request.mutable_capacity_range()->set_required_bytes(size_bytes);
  *request.add_volume_capabilities() = capability;
  request.mutable_parameters()->insert(parameters.begin(), parameters.end());
  Context context;
  pb::CreateVolumeResponse response;
  UBLKD_RETURN_IF_ERROR(FromGrpc(controller_->CreateVolume(&context, request, &response)));
  return response.volume().volume_id();
}

absl::Status CsiClient::DeleteVolume(const std::string& volume_id) {
  pb::DeleteVolumeRequest request;
  request.set_volume_id(volume_id);
  Context context;
  pb::DeleteVolumeResponse response;
  return FromGrpc(controller_->DeleteVolume(&context, request, &response));
}

absl::StatusOr<std::vector<std::string>> CsiClient::ListVolumes() {
  Context context;
  pb::ListVolumesResponse response;
  UBLKD_RETURN_IF_ERROR(FromGrpc(controller_->ListVolumes(&context, {}, &response)));
  std::vector<std::string> ids;
  for (const auto& entry : response.entries()) ids.push_back(entry.volume().volume_id());
  return ids;
}

absl::Status CsiClient::Stage(const std::string& volume_id, const std::string& staging_path,
                              const Capability& capability) {
  pb::NodeStageVolumeRequest request;
  request.set_volume_id(volume_id);
  request.set_staging_target_path(staging_path);
  *request.mutable_volume_capability() = capability;
  Context context;
  pb::NodeStageVolumeResponse response;
  return FromGrpc(node_->NodeStageVolume(&context, request, &response));
}

absl::Status CsiClient::Unstage(const std::string& volume_id, const std::string& staging_path) {
  pb::NodeUnstageVolumeRequest request;
  request.set_volume_id(volume_id);
  request.set_staging_target_path(staging_path);
  Context context;
  pb::NodeUnstageVolumeResponse response;
  return FromGrpc(node_->NodeUnstageVolume(&context, request, &response));
}

absl::Status CsiClient::Publish(const std::string& volume_id, const std::string& staging_path,
                                const std::string& target_path, const Capability& capability,
                                bool read_only) {
  pb::NodePublishVolumeRequest request;
  request.set_volume_id(volume_id);
  request.set_staging_target_path(staging_path);
  request.set_target_path(target_path);
  request.set_readonly(read_only);
  *request.mutable_volume_capability() = capability;
  Context context;
  pb::NodePublishVolumeResponse response;
  return FromGrpc(node_->NodePublishVolume(&context, request, &response));
}

absl::Status CsiClient::Unpublish(const std::string& volume_id, const std::string& target_path) {
  pb::NodeUnpublishVolumeRequest request;
  request.set_volume_id(volume_id);
  request.set_target_path(target_path);
  Context context;
  pb::NodeUnpublishVolumeResponse response;
  return FromGrpc(node_->NodeUnpublishVolume(&context, request, &response));
}

absl::StatusOr<pb::NodeGetVolumeStatsResponse> CsiClient::Stats(const std::string& volume_id,
                                                                const std::string& volume_path) {
  pb::NodeGetVolumeStatsRequest request;
  request.set_volume_id(volume_id);
  request.set_volume_path(volume_path);
  Context context;
  pb::NodeGetVolumeStatsResponse response;
  UBLKD_RETURN_IF_ERROR(FromGrpc(node_->NodeGetVolumeStats(&context, request, &response)));
  return response;
}

}  // namespace ublkd::test
