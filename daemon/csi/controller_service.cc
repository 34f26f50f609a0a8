// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/status.h"
#include "daemon/csi/request.h"
#include "daemon/csi/service.h"

namespace ublkd::csi {

grpc::Status ControllerService::CreateVolume(grpc::ServerContext*,
                                             const pb::CreateVolumeRequest* request,
                                             pb::CreateVolumeResponse* response) {
  return server_.Serve("/csi.v1.Controller/CreateVolume", *request, [&]() -> absl::Status {
    UBLKD_ASSIGN_OR_RETURN(const std::string id, controller_.IdOf(*request));
    UBLKD_ASSIGN_OR_RETURN(const InFlight::Entry entry, in_flight_.Enter(id));
    UBLKD_ASSIGN_OR_RETURN(*response->mutable_volume(), controller_.CreateVolume(*request, id));
    return absl::OkStatus();
  });
}

grpc::Status ControllerService::DeleteVolume(grpc::ServerContext*,
                                             const pb::DeleteVolumeRequest* request,
                                             pb::DeleteVolumeResponse*) {
  return server_.Serve("/csi.v1.Controller/DeleteVolume", *request, [&]() -> absl::Status {
    UBLKD_RETURN_IF_ERROR(CheckGiven(request->volume_id(), "volume_id"));
    UBLKD_ASSIGN_OR_RETURN(const InFlight::Entry entry, in_flight_.Enter(request->volume_id()));
    return controller_.DeleteVolume(request->volume_id());
  });
}

grpc::Status ControllerService::ValidateVolumeCapabilities(
    grpc::ServerContext*, const pb::ValidateVolumeCapabilitiesRequest* request,
    pb::ValidateVolumeCapabilitiesResponse* response) {
  return server_.Serve("/csi.v1.Controller/ValidateVolumeCapabilities", *request,
                       [&]() -> absl::Status {
                         UBLKD_ASSIGN_OR_RETURN(*response, controller_.Validate(*request));
                         return absl::OkStatus();
                       });
}

grpc::Status ControllerService::ListVolumes(grpc::ServerContext*,
                                            const pb::ListVolumesRequest* request,
                                            pb::ListVolumesResponse* response) {
  return server_.Serve("/csi.v1.Controller/ListVolumes", *request, [&]() -> absl::Status {
    UBLKD_ASSIGN_OR_RETURN(*response, controller_.ListVolumes(*request));
    return absl::OkStatus();
  });
}

grpc::Status ControllerService::GetCapacity(grpc::ServerContext*,
                                            const pb::GetCapacityRequest* request,
                                            pb::GetCapacityResponse* response) {
  return server_.Serve("/csi.v1.Controller/GetCapacity", *request, [&]() -> absl::Status {
    UBLKD_ASSIGN_OR_RETURN(*response, controller_.GetCapacity(*request));
    return absl::OkStatus();
  });
}

grpc::Status ControllerService::ControllerGetCapabilities(
    grpc::ServerContext*, const pb::ControllerGetCapabilitiesRequest* request,
    pb::ControllerGetCapabilitiesResponse* response) {
  return server_.Serve("/csi.v1.Controller/ControllerGetCapabilities", *request, [&] {
    using Rpc = pb::ControllerServiceCapability::RPC;
    for (const auto type : {Rpc::CREATE_DELETE_VOLUME, Rpc::LIST_VOLUMES, Rpc::GET_CAPACITY,
                            Rpc::SINGLE_NODE_MULTI_WRITER}) {
      response->add_capabilities()->mutable_rpc()->set_type(type);
    }
    return absl::OkStatus();
  });
}

grpc::Status ControllerService::ControllerPublishVolume(
    grpc::ServerContext*, const pb::ControllerPublishVolumeRequest* request,
    pb::ControllerPublishVolumeResponse*) {
  return server_.Serve("/csi.v1.Controller/ControllerPublishVolume", *request,
                       [] { return NotOffered("ControllerPublishVolume"); });
}

grpc::Status ControllerService::ControllerUnpublishVolume(
    grpc::ServerContext*, const pb::ControllerUnpublishVolumeRequest* request,
    pb::ControllerUnpublishVolumeResponse*) {
  return server_.Serve("/csi.v1.Controller/ControllerUnpublishVolume", *request,
                       [] { return NotOffered("ControllerUnpublishVolume"); });
}

grpc::Status ControllerService::CreateSnapshot(grpc::ServerContext*,
                                               const pb::CreateSnapshotRequest* request,
                                               pb::CreateSnapshotResponse*) {
  return server_.Serve("/csi.v1.Controller/CreateSnapshot", *request,
                       [] { return NotOffered("CreateSnapshot"); });
}

grpc::Status ControllerService::DeleteSnapshot(grpc::ServerContext*,
                                               const pb::DeleteSnapshotRequest* request,
                                               pb::DeleteSnapshotResponse*) {
  return server_.Serve("/csi.v1.Controller/DeleteSnapshot", *request,
                       [] { return NotOffered("DeleteSnapshot"); });
}

grpc::Status ControllerService::ListSnapshots(grpc::ServerContext*,
                                              const pb::ListSnapshotsRequest* request,
                                              pb::ListSnapshotsResponse*) {
  return server_.Serve("/csi.v1.Controller/ListSnapshots", *request,
                       [] { return NotOffered("ListSnapshots"); });
}

grpc::Status ControllerService::GetSnapshot(grpc::ServerContext*,
                                            const pb::GetSnapshotRequest* request,
                                            pb::GetSnapshotResponse*) {
  return server_.Serve("/csi.v1.Controller/GetSnapshot", *request,
                       [] { return NotOffered("GetSnapshot"); });
}

grpc::Status ControllerService::ControllerExpandVolume(
    grpc::ServerContext*, const pb::ControllerExpandVolumeRequest* request,
    pb::ControllerExpandVolumeResponse*) {
  return server_.Serve("/csi.v1.Controller/ControllerExpandVolume", *request,
                       [] { return NotOffered("ControllerExpandVolume"); });
}

grpc::Status ControllerService::ControllerGetVolume(grpc::ServerContext*,
                                                    const pb::ControllerGetVolumeRequest* request,
                                                    pb::ControllerGetVolumeResponse*) {
  return server_.Serve("/csi.v1.Controller/ControllerGetVolume", *request,
                       [] { return NotOffered("ControllerGetVolume"); });
}

grpc::Status ControllerService::ControllerModifyVolume(
    grpc::ServerContext*, const pb::ControllerModifyVolumeRequest* request,
    pb::ControllerModifyVolumeResponse*) {
  return server_.Serve("/csi.v1.Controller/ControllerModifyVolume", *request,
                       [] { return NotOffered("ControllerModifyVolume"); });
}

}  // namespace ublkd::csi
