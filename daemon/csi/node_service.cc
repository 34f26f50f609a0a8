// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"
#include "daemon/csi/paths.h"
#include "daemon/csi/request.h"
#include "daemon/csi/service.h"

namespace ublkd::csi {
namespace {

// How many devices the driver takes from users; every driver of this name has it.
constexpr char kMaxDevicesPath[] = "/sys/module/ublk_drv/parameters/ublks_max";

// 0 when the driver does not tell.
uint32_t DriverLimit() {
  const absl::StatusOr<std::string> text = ReadFile(kMaxDevicesPath);
  uint32_t limit = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripSuffix(*text, "\n"), &limit)) return 0;
  return limit;
}

}  // namespace

absl::StatusOr<Usage> NodeService::CheckedUsage(bool given,
                                                const pb::VolumeCapability& capability) const {
  if (!given) return absl::InvalidArgumentError("volume_capability is missing; give it");
  UBLKD_ASSIGN_OR_RETURN(Usage usage, ParseUsage(capability, "volume_capability"));
  UBLKD_RETURN_IF_ERROR(CheckSupported(usage, absl::StatusCode::kFailedPrecondition));
  return usage;
}

absl::Status NodeService::Stage(const pb::NodeStageVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.volume_id(), "volume_id"));
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.staging_target_path(), "staging_target_path"));
  StageArguments arguments;
  arguments.volume_id = request.volume_id();
  UBLKD_ASSIGN_OR_RETURN(
      arguments.usage, CheckedUsage(request.has_volume_capability(), request.volume_capability()));
  UBLKD_ASSIGN_OR_RETURN(
      arguments.staging_path,
      ResolvePath(request.staging_target_path(), "staging_target_path", options_.kubelet_dir));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Entry entry, in_flight_.Enter(request.volume_id()));
  return node_.Stage(arguments);
}

absl::Status NodeService::Unstage(const pb::NodeUnstageVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.volume_id(), "volume_id"));
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.staging_target_path(), "staging_target_path"));
  UnstageArguments arguments;
  arguments.volume_id = request.volume_id();
  UBLKD_ASSIGN_OR_RETURN(
      arguments.staging_path,
      ResolvePath(request.staging_target_path(), "staging_target_path", options_.kubelet_dir));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Entry entry, in_flight_.Enter(request.volume_id()));
  return node_.Unstage(arguments);
}

absl::Status NodeService::Publish(const pb::NodePublishVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.volume_id(), "volume_id"));
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.target_path(), "target_path"));
  PublishArguments arguments;
  arguments.volume_id = request.volume_id();
  arguments.read_only = request.readonly();
  UBLKD_ASSIGN_OR_RETURN(
      arguments.usage, CheckedUsage(request.has_volume_capability(), request.volume_capability()));
  UBLKD_ASSIGN_OR_RETURN(arguments.target,
                         ResolvePath(request.target_path(), "target_path", options_.kubelet_dir));
  if (request.staging_target_path().empty()) {
    return absl::FailedPreconditionError(
        "staging_target_path is missing: a volume is staged before it is published; stage it");
  }
  UBLKD_ASSIGN_OR_RETURN(
      arguments.staging_path,
      ResolvePath(request.staging_target_path(), "staging_target_path", options_.kubelet_dir));
  if (arguments.staging_path == arguments.target) {
    return absl::InvalidArgumentError("target_path is the staging path; give another one");
  }
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Entry entry, in_flight_.Enter(request.volume_id()));
  return node_.Publish(arguments);
}

absl::Status NodeService::Unpublish(const pb::NodeUnpublishVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.volume_id(), "volume_id"));
  UBLKD_RETURN_IF_ERROR(CheckGiven(request.target_path(), "target_path"));
  UnpublishArguments arguments;
  arguments.volume_id = request.volume_id();
  UBLKD_ASSIGN_OR_RETURN(arguments.target,
                         ResolvePath(request.target_path(), "target_path", options_.kubelet_dir));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Entry entry, in_flight_.Enter(request.volume_id()));
  return node_.Unpublish(arguments);
}

grpc::Status NodeService::NodeStageVolume(grpc::ServerContext*,
                                          const pb::NodeStageVolumeRequest* request,
                                          pb::NodeStageVolumeResponse*) {
  return server_.Serve("/csi.v1.Node/NodeStageVolume", *request, [&] { return Stage(*request); });
}

grpc::Status NodeService::NodeUnstageVolume(grpc::ServerContext*,
                                            const pb::NodeUnstageVolumeRequest* request,
                                            pb::NodeUnstageVolumeResponse*) {
  return server_.Serve("/csi.v1.Node/NodeUnstageVolume", *request,
                       [&] { return Unstage(*request); });
}

grpc::Status NodeService::NodePublishVolume(grpc::ServerContext*,
                                            const pb::NodePublishVolumeRequest* request,
                                            pb::NodePublishVolumeResponse*) {
  return server_.Serve("/csi.v1.Node/NodePublishVolume", *request,
                       [&] { return Publish(*request); });
}

grpc::Status NodeService::NodeUnpublishVolume(grpc::ServerContext*,
                                              const pb::NodeUnpublishVolumeRequest* request,
                                              pb::NodeUnpublishVolumeResponse*) {
  return server_.Serve("/csi.v1.Node/NodeUnpublishVolume", *request,
                       [&] { return Unpublish(*request); });
}

grpc::Status NodeService::NodeGetVolumeStats(grpc::ServerContext*,
                                             const pb::NodeGetVolumeStatsRequest* request,
                                             pb::NodeGetVolumeStatsResponse* response) {
  return server_.Serve("/csi.v1.Node/NodeGetVolumeStats", *request, [&]() -> absl::Status {
    UBLKD_RETURN_IF_ERROR(CheckGiven(request->volume_id(), "volume_id"));
    UBLKD_RETURN_IF_ERROR(CheckGiven(request->volume_path(), "volume_path"));
    // A path where no volume can be is one where this volume is not.
    const absl::StatusOr<std::string> path =
        ResolvePath(request->volume_path(), "volume_path", options_.kubelet_dir);
    if (!path.ok()) return absl::NotFoundError(path.status().message());
    UBLKD_ASSIGN_OR_RETURN(*response, node_.Stats(request->volume_id(), *path));
    return absl::OkStatus();
  });
}

grpc::Status NodeService::NodeGetCapabilities(grpc::ServerContext*,
                                              const pb::NodeGetCapabilitiesRequest* request,
                                              pb::NodeGetCapabilitiesResponse* response) {
  return server_.Serve("/csi.v1.Node/NodeGetCapabilities", *request, [&] {
    using Rpc = pb::NodeServiceCapability::RPC;
    for (const auto type : {Rpc::STAGE_UNSTAGE_VOLUME, Rpc::GET_VOLUME_STATS, Rpc::VOLUME_CONDITION,
                            Rpc::SINGLE_NODE_MULTI_WRITER}) {
      response->add_capabilities()->mutable_rpc()->set_type(type);
    }
    return absl::OkStatus();
  });
}

grpc::Status NodeService::NodeGetInfo(grpc::ServerContext*, const pb::NodeGetInfoRequest* request,
                                      pb::NodeGetInfoResponse* response) {
  return server_.Serve("/csi.v1.Node/NodeGetInfo", *request, [&] {
    response->set_node_id(options_.node_id);
    response->set_max_volumes_per_node(options_.max_volumes != 0 ? options_.max_volumes
                                                                 : DriverLimit());
    *response->mutable_accessible_topology() = controller_.LocalTopology();
    return absl::OkStatus();
  });
}

grpc::Status NodeService::NodeExpandVolume(grpc::ServerContext*,
                                           const pb::NodeExpandVolumeRequest* request,
                                           pb::NodeExpandVolumeResponse*) {
  return server_.Serve("/csi.v1.Node/NodeExpandVolume", *request,
                       [] { return NotOffered("NodeExpandVolume"); });
}

}  // namespace ublkd::csi
