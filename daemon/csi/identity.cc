// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/version.h"
#include "daemon/csi/service.h"

namespace ublkd::csi {

grpc::Status IdentityService::GetPluginInfo(grpc::ServerContext*,
                                            const pb::GetPluginInfoRequest* request,
                                            pb::GetPluginInfoResponse* response) {
  return server_.Serve("/csi.v1.Identity/GetPluginInfo", *request, [&] {
    response->set_name(options_.driver_name);
    response->set_vendor_version(kVersion);
    return absl::OkStatus();
  });
}

grpc::Status IdentityService::GetPluginCapabilities(grpc::ServerContext*,
                                                    const pb::GetPluginCapabilitiesRequest* request,
                                                    pb::GetPluginCapabilitiesResponse* response) {
  return server_.Serve("/csi.v1.Identity/GetPluginCapabilities", *request, [&] {
    using Kind = pb::PluginCapability::Service;
    for (const auto type : {Kind::CONTROLLER_SERVICE, Kind::VOLUME_ACCESSIBILITY_CONSTRAINTS}) {
      response->add_capabilities()->mutable_service()->set_type(type);
    }
    return absl::OkStatus();
  });
}

grpc::Status IdentityService::Probe(grpc::ServerContext*, const pb::ProbeRequest* request,
                                    pb::ProbeResponse* response) {
  return server_.Serve("/csi.v1.Identity/Probe", *request, [&] {
    // Not an error: a restart of ublkd-csi would not make ublkd ready.
    const absl::StatusOr<api::ServerInfo> info = ublkd_.GetServerInfo();
    response->mutable_ready()->set_value(info.ok() && info->ready());
    return absl::OkStatus();
  });
}

}  // namespace ublkd::csi
