// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "csi/v1/csi.grpc.pb.h"
#include "daemon/csi/controller.h"
#include "daemon/csi/in_flight.h"
#include "daemon/csi/metrics.h"
#include "daemon/csi/node.h"
#include "daemon/csi/options.h"

/// The thin layer between gRPC and the logic: checks requests, turns away a second call for a
/// volume, turns exceptions into INTERNAL, writes one log line a call.
namespace ublkd::csi {

/// Serves the bodies of calls. `metrics` may be nullptr.
class CallServer {
 public:
  explicit CallServer(Metrics* metrics) : metrics_(metrics) {}

  /// `method` is "/csi.v1.<Service>/<Method>". Calls that ask only whether we are there are logged
  /// at level debug when they are OK.
  grpc::Status Serve(absl::string_view method, const google::protobuf::Message& request,
                     const std::function<absl::Status()>& body) const;

 private:
  Metrics* const metrics_;
};

/// UNIMPLEMENTED for a method that ublkd-csi does not offer.
absl::Status NotOffered(absl::string_view method);

class IdentityService final : public pb::Identity::Service {
 public:
  IdentityService(const Options& options, const UblkdClient& ublkd, const CallServer& server)
      : options_(options), ublkd_(ublkd), server_(server) {}

  grpc::Status GetPluginInfo(grpc::ServerContext*, const pb::GetPluginInfoRequest*,
                             pb::GetPluginInfoResponse*) override;
  grpc::Status GetPluginCapabilities(grpc::ServerContext*, const pb::GetPluginCapabilitiesRequest*,
                                     pb::GetPluginCapabilitiesResponse*) override;
  /// Ready means that ublkd answers and can attach devices.
  grpc::Status Probe(grpc::ServerContext*, const pb::ProbeRequest*, pb::ProbeResponse*) override;

 private:
  const Options& options_;
  const UblkdClient& ublkd_;
  const CallServer& server_;
};

class ControllerService final : public pb::Controller::Service {
 public:
  ControllerService(const Controller& controller, InFlight& in_flight, const CallServer& server)
      : controller_(controller), in_flight_(in_flight), server_(server) {}

  grpc::Status CreateVolume(grpc::ServerContext*, const pb::CreateVolumeRequest*,
                            pb::CreateVolumeResponse*) override;
  grpc::Status DeleteVolume(grpc::ServerContext*, const pb::DeleteVolumeRequest*,
                            pb::DeleteVolumeResponse*) override;
  grpc::Status ValidateVolumeCapabilities(grpc::ServerContext*,
                                          const pb::ValidateVolumeCapabilitiesRequest*,
                                          pb::ValidateVolumeCapabilitiesResponse*) override;
  grpc::Status ListVolumes(grpc::ServerContext*, const pb::ListVolumesRequest*,
                           pb::ListVolumesResponse*) override;
  grpc::Status GetCapacity(grpc::ServerContext*, const pb::GetCapacityRequest*,
                           pb::GetCapacityResponse*) override;
  grpc::Status ControllerGetCapabilities(grpc::ServerContext*,
                                         const pb::ControllerGetCapabilitiesRequest*,
                                         pb::ControllerGetCapabilitiesResponse*) override;

  // Not offered; they say so in words.
  grpc::Status ControllerPublishVolume(grpc::ServerContext*,
                                       const pb::ControllerPublishVolumeRequest*,
                                       pb::ControllerPublishVolumeResponse*) override;
  grpc::Status ControllerUnpublishVolume(grpc::ServerContext*,
                                         const pb::ControllerUnpublishVolumeRequest*,
                                         pb::ControllerUnpublishVolumeResponse*) override;
  grpc::Status CreateSnapshot(grpc::ServerContext*, const pb::CreateSnapshotRequest*,
                              pb::CreateSnapshotResponse*) override;
  grpc::Status DeleteSnapshot(grpc::ServerContext*, const pb::DeleteSnapshotRequest*,
                              pb::DeleteSnapshotResponse*) override;
  grpc::Status ListSnapshots(grpc::ServerContext*, const pb::ListSnapshotsRequest*,
                             pb::ListSnapshotsResponse*) override;
  grpc::Status GetSnapshot(grpc::ServerContext*, const pb::GetSnapshotRequest*,
                           pb::GetSnapshotResponse*) override;
  grpc::Status ControllerExpandVolume(grpc::ServerContext*,
                                      const pb::ControllerExpandVolumeRequest*,
                                      pb::ControllerExpandVolumeResponse*) override;
  grpc::Status ControllerGetVolume(grpc::ServerContext*, const pb::ControllerGetVolumeRequest*,
                                   pb::ControllerGetVolumeResponse*) override;
  grpc::Status ControllerModifyVolume(grpc::ServerContext*,
                                      const pb::ControllerModifyVolumeRequest*,
                                      pb::ControllerModifyVolumeResponse*) override;

 private:
  const Controller& controller_;
  InFlight& in_flight_;
  const CallServer& server_;
};

class NodeService final : public pb::Node::Service {
 public:
  NodeService(const Options& options, const Node& node, const Controller& controller,
              InFlight& in_flight, const CallServer& server)
      : options_(options),
        node_(node),
        controller_(controller),
        in_flight_(in_flight),
        server_(server) {}

  grpc::Status NodeStageVolume(grpc::ServerContext*, const pb::NodeStageVolumeRequest*,
                               pb::NodeStageVolumeResponse*) override;
  grpc::Status NodeUnstageVolume(grpc::ServerContext*, const pb::NodeUnstageVolumeRequest*,
                                 pb::NodeUnstageVolumeResponse*) override;
  grpc::Status NodePublishVolume(grpc::ServerContext*, const pb::NodePublishVolumeRequest*,
                                 pb::NodePublishVolumeResponse*) override;
  grpc::Status NodeUnpublishVolume(grpc::ServerContext*, const pb::NodeUnpublishVolumeRequest*,
                                   pb::NodeUnpublishVolumeResponse*) override;
  grpc::Status NodeGetVolumeStats(grpc::ServerContext*, const pb::NodeGetVolumeStatsRequest*,
                                  pb::NodeGetVolumeStatsResponse*) override;
  // Not offered; it says so in words.
  grpc::Status NodeExpandVolume(grpc::ServerContext*, const pb::NodeExpandVolumeRequest*,
                                pb::NodeExpandVolumeResponse*) override;
  grpc::Status NodeGetCapabilities(grpc::ServerContext*, const pb::NodeGetCapabilitiesRequest*,
                                   pb::NodeGetCapabilitiesResponse*) override;
  grpc::Status NodeGetInfo(grpc::ServerContext*, const pb::NodeGetInfoRequest*,
                           pb::NodeGetInfoResponse*) override;

 private:
  absl::Status Stage(const pb::NodeStageVolumeRequest& request);
  absl::Status Unstage(const pb::NodeUnstageVolumeRequest& request);
  absl::Status Publish(const pb::NodePublishVolumeRequest& request);
  absl::Status Unpublish(const pb::NodeUnpublishVolumeRequest& request);
  absl::StatusOr<Usage> CheckedUsage(bool given, const pb::VolumeCapability& capability) const;

  const Options& options_;
  const Node& node_;
  const Controller& controller_;
  InFlight& in_flight_;
  const CallServer& server_;
};

}  // namespace ublkd::csi
