// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/volume_service.h"

#include "absl/strings/str_cat.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "daemon/server/call_log.h"
#include "daemon/server/convert.h"

namespace ublkd::server {
namespace {

// Ends a call whose result, if there is one, is the response.
template <typename Response>
grpc::Status Answer(const CallLog& log, absl::StatusOr<Response> result, Response& response) {
  if (result.ok()) response = std::move(*result);
  return log.End(result.status());
}

}  // namespace

v1::Volume VolumeService::Describe(const volume::Volume& volume) const {
  return FromVolume(volume,
                    volumes_.AttachedTo(volume::FormatVolumeId(volume.pool, volume.record.name)));
}

absl::StatusOr<v1::Volume> VolumeService::Create(const v1::CreateVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(gate_());
  UBLKD_ASSIGN_OR_RETURN(const volume::VolumeRequest wanted, ToVolumeRequest(request));
  UBLKD_ASSIGN_OR_RETURN(const volume::Volume volume, volumes_.Create(request.pool(), wanted));
  return Describe(volume);
}

absl::Status VolumeService::Delete(const v1::DeleteVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(gate_());
  return volumes_.Delete(request.id());
}

absl::StatusOr<v1::Volume> VolumeService::Get(const v1::GetVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(gate_());
  UBLKD_ASSIGN_OR_RETURN(const volume::Volume volume, volumes_.Get(request.id()));
  return Describe(volume);
}

absl::StatusOr<v1::ListVolumesResponse> VolumeService::List(const v1::ListVolumesRequest& request) {
  UBLKD_RETURN_IF_ERROR(gate_());
  UBLKD_ASSIGN_OR_RETURN(const volume::VolumePage page,
                         volumes_.List(request.pool(), request.page_size(), request.page_token()));
  v1::ListVolumesResponse response;
  for (const volume::Volume& volume : page.volumes) *response.add_volumes() = Describe(volume);
  response.set_next_page_token(page.next_token);
  return response;
}

absl::StatusOr<v1::Volume> VolumeService::SetFormat(const v1::SetVolumeFormatRequest& request) {
  UBLKD_RETURN_IF_ERROR(gate_());
  UBLKD_ASSIGN_OR_RETURN(const volume::Format::State expected,
                         ToFormatState(request.expected_state(), "expected_state"));
  UBLKD_ASSIGN_OR_RETURN(const volume::Format format, ToFormat(request.format()));
  UBLKD_ASSIGN_OR_RETURN(const volume::Volume volume,
                         volumes_.SetFormat(request.id(), expected, format));
  return Describe(volume);
}

absl::StatusOr<v1::Volume> VolumeService::Resize(const v1::ResizeVolumeRequest& request) {
  UBLKD_RETURN_IF_ERROR(gate_());
  UBLKD_ASSIGN_OR_RETURN(const volume::Volume volume,
                         volumes_.Resize(request.id(), request.size_bytes()));
  return Describe(volume);
}

absl::StatusOr<v1::ListPoolsResponse> VolumeService::Pools() {
  UBLKD_RETURN_IF_ERROR(gate_());
  v1::ListPoolsResponse response;
  for (const volume::Pool* const pool : volumes_.Pools()) {
    UBLKD_ASSIGN_OR_RETURN(const volume::PoolCapacity capacity, pool->Capacity());
    *response.add_pools() = FromPool(*pool, capacity);
  }
  return response;
}

grpc::Status VolumeService::CreateVolume(grpc::ServerContext* /*context*/,
                                         const v1::CreateVolumeRequest* request,
                                         v1::Volume* response) {
  CallLog log(CallLog::Kind::kChanges, "CreateVolume");
  log.SetSubject(volume::FormatVolumeId(request->pool(), request->name()));
  return Answer(log, Create(*request), *response);
}

grpc::Status VolumeService::DeleteVolume(grpc::ServerContext* /*context*/,
                                         const v1::DeleteVolumeRequest* request,
                                         v1::DeleteVolumeResponse* /*response*/) {
  CallLog log(CallLog::Kind::kChanges, "DeleteVolume");
  log.SetSubject(request->id());
  return log.End(Delete(*request));
}

grpc::Status VolumeService::GetVolume(grpc::ServerContext* /*context*/,
                                      const v1::GetVolumeRequest* request, v1::Volume* response) {
  CallLog log(CallLog::Kind::kReads, "GetVolume");
  log.SetSubject(request->id());
  return Answer(log, Get(*request), *response);
}

grpc::Status VolumeService::ListVolumes(grpc::ServerContext* /*context*/,
                                        const v1::ListVolumesRequest* request,
                                        v1::ListVolumesResponse* response) {
  CallLog log(CallLog::Kind::kReads, "ListVolumes");
  log.SetSubject(request->pool());
  return Answer(log, List(*request), *response);
}

grpc::Status VolumeService::SetVolumeFormat(grpc::ServerContext* /*context*/,
                                            const v1::SetVolumeFormatRequest* request,
                                            v1::Volume* response) {
  CallLog log(CallLog::Kind::kChanges, "SetVolumeFormat");
  log.SetSubject(request->id());
  return Answer(log, SetFormat(*request), *response);
}

grpc::Status VolumeService::ResizeVolume(grpc::ServerContext* /*context*/,
                                         const v1::ResizeVolumeRequest* request,
                                         v1::Volume* response) {
  CallLog log(CallLog::Kind::kChanges, "ResizeVolume");
  log.SetSubject(absl::StrCat(request->id(), " to ", FormatBytes(request->size_bytes())));
  return Answer(log, Resize(*request), *response);
}

grpc::Status VolumeService::ListPools(grpc::ServerContext* /*context*/,
                                      const v1::ListPoolsRequest* /*request*/,
                                      v1::ListPoolsResponse* response) {
  const CallLog log(CallLog::Kind::kReads, "ListPools");
  return Answer(log, Pools(), *response);
}

}  // namespace ublkd::server
