// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/lookup.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "daemon/base/status.h"
#include "daemon/ctl/outcome.h"
#include "ublkd/v1/device.grpc.pb.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::ctl {
namespace {

// Far below the largest message of gRPC, however long the labels.
constexpr uint32_t kVolumesPerPage = 500;

}  // namespace

absl::StatusOr<uint32_t> ParseDeviceId(const std::string& text) {
  absl::string_view number = text;
  absl::ConsumePrefix(&number, "/dev/");
  absl::ConsumePrefix(&number, "ublkb");
  uint32_t id = 0;
  const bool digits = number.find_first_not_of("0123456789") == absl::string_view::npos;
  if (!digits || !absl::SimpleAtoi(number, &id)) {
    return UsageError(
        absl::StrCat("\"", text, "\" is not a device: give an id such as 0, or /dev/ublkb0"));
  }
  return id;
}

absl::StatusOr<std::vector<v1::Device>> ListDevices(Client& client, bool all) {
  v1::ListDevicesRequest request;
  request.set_all(all);
  UBLKD_ASSIGN_OR_RETURN(const v1::ListDevicesResponse answer,
                         client.Call(&v1::DeviceService::Stub::ListDevices, request));
  return std::vector<v1::Device>(answer.devices().begin(), answer.devices().end());
}

absl::StatusOr<std::vector<v1::Volume>> ListVolumes(Client& client, const std::string& pool) {
  std::vector<v1::Volume> volumes;
  v1::ListVolumesRequest request;
  request.set_pool(pool);
  request.set_page_size(kVolumesPerPage);
  do {
    UBLKD_ASSIGN_OR_RETURN(const v1::ListVolumesResponse page,
                           client.Call(&v1::VolumeService::Stub::ListVolumes, request));
    volumes.insert(volumes.end(), page.volumes().begin(), page.volumes().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return volumes;
}

absl::StatusOr<std::vector<v1::Pool>> ListPools(Client& client) {
  UBLKD_ASSIGN_OR_RETURN(const v1::ListPoolsResponse answer,
                         client.Call(&v1::VolumeService::Stub::ListPools, v1::ListPoolsRequest()));
  return std::vector<v1::Pool>(answer.pools().begin(), answer.pools().end());
}

}  // namespace ublkd::ctl
