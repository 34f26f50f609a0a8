// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/ublkd_client.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/rpc.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

constexpr std::chrono::seconds kQueryDeadline{5};
// Preallocation of a large volume takes its time.
constexpr std::chrono::seconds kChangeDeadline{60};
constexpr size_t kMaxVolumeIdBytes = 128;

bool IsName(absl::string_view name) {
  return !name.empty() && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

}  // namespace

bool IsVolumeId(absl::string_view id) {
  const std::vector<absl::string_view> parts = absl::StrSplit(id, '/');
  return parts.size() == 2 && id.size() <= kMaxVolumeIdBytes && IsName(parts[0]) &&
         IsName(parts[1]);
}

absl::Status UnknownVolume(absl::string_view id) {
  return absl::NotFoundError(absl::StrCat("volume \"", id, "\" does not exist on this node"));
}

UblkdClient::UblkdClient(const std::string& socket_path)
    : socket_path_(socket_path),
      devices_(api::DeviceService::NewStub(ConnectToUnixSocket(socket_path))),
      volumes_(api::VolumeService::NewStub(ConnectToUnixSocket(socket_path))) {}

template <typename Response, typename Stub, typename Request>
absl::StatusOr<Response> UblkdClient::Call(
    Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request, std::chrono::seconds deadline) const {
  if (const int error = TryToConnect(socket_path_); error != 0) {
    return absl::UnavailableError(absl::StrCat("ublkd is not running: ", socket_path_, ": ",
                                               std::strerror(error), "; look at its log"));
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + deadline);
  // Somebody listens: a channel that still backs off from the last failure is to try again now.
  context.set_wait_for_ready(true);
  Response response;
  const absl::Status status = FromGrpc((stub.*method)(&context, request, &response));
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return response;
    case absl::StatusCode::kUnavailable:
      return Annotate(status, absl::StrCat("ublkd at ", socket_path_, " is not ready"));
    case absl::StatusCode::kDeadlineExceeded:
      return absl::UnavailableError(
          absl::StrCat("ublkd at ", socket_path_, " did not answer in time; look at its log"));
    default:
      return status;
  }
}

absl::StatusOr<api::ServerInfo> UblkdClient::GetServerInfo() const {
  return Call(*devices_, &api::DeviceService::Stub::GetServerInfo, api::GetServerInfoRequest(),
              kQueryDeadline);
}

absl::StatusOr<api::Volume> UblkdClient::CreateVolume(
    const api::CreateVolumeRequest& request) const {
  return Call(*volumes_, &api::VolumeService::Stub::CreateVolume, request, kChangeDeadline);
}

absl::Status UblkdClient::DeleteVolume(const std::string& id) const {
  api::DeleteVolumeRequest request;
  request.set_id(id);
  return Call(*volumes_, &api::VolumeService::Stub::DeleteVolume, request, kChangeDeadline)
      .status();
}

absl::StatusOr<api::Volume> UblkdClient::GetVolume(const std::string& id) const {
  if (!IsVolumeId(id)) return UnknownVolume(id);
  api::GetVolumeRequest request;
  request.set_id(id);
  return Call(*volumes_, &api::VolumeService::Stub::GetVolume, request, kQueryDeadline);
}

absl::StatusOr<api::ListVolumesResponse> UblkdClient::ListVolumes(
    const api::ListVolumesRequest& request) const {
  return Call(*volumes_, &api::VolumeService::Stub::ListVolumes, request, kQueryDeadline);
}

absl::StatusOr<std::vector<api::Pool>> UblkdClient::ListPools() const {
  UBLKD_ASSIGN_OR_RETURN(const api::ListPoolsResponse response,
                         Call(*volumes_, &api::VolumeService::Stub::ListPools,
                              api::ListPoolsRequest(), kQueryDeadline));
  return std::vector<api::Pool>(response.pools().begin(), response.pools().end());
}

absl::StatusOr<api::Volume> UblkdClient::SetVolumeFormat(const std::string& id,
                                                         api::Format::State expected,
                                                         api::Format::State state,
                                                         const std::string& fs_type,
                                                         const std::string& fs_uuid) const {
  api::SetVolumeFormatRequest request;
  request.set_id(id);
  request.set_expected_state(expected);
  request.mutable_format()->set_state(state);
  request.mutable_format()->set_fs_type(fs_type);
  request.mutable_format()->set_fs_uuid(fs_uuid);
  return Call(*volumes_, &api::VolumeService::Stub::SetVolumeFormat, request, kChangeDeadline);
}

absl::StatusOr<BlockDevice> UblkdClient::AttachVolume(const std::string& id, bool read_only) const {
  api::CreateDeviceRequest request;
  request.mutable_spec()->mutable_volume()->set_volume_id(id);
  request.mutable_spec()->set_read_only(read_only);
  UBLKD_ASSIGN_OR_RETURN(
      const api::Device device,
      Call(*devices_, &api::DeviceService::Stub::CreateDevice, request, kChangeDeadline));
  return BlockDevice{device.id(), device.path(), DeviceNumber(device.major(), device.minor()),
                     device.size_bytes()};
}

absl::StatusOr<api::Device> UblkdClient::GetDevice(uint32_t id) const {
  api::GetDeviceRequest request;
  request.set_id(id);
  return Call(*devices_, &api::DeviceService::Stub::GetDevice, request, kQueryDeadline);
}

absl::Status UblkdClient::DetachDevice(uint32_t id) const {
  api::DeleteDeviceRequest request;
  request.set_id(id);
  return Call(*devices_, &api::DeviceService::Stub::DeleteDevice, request, kChangeDeadline)
      .status();
}

}  // namespace ublkd::csi
