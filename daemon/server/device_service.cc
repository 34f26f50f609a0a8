// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/device_service.h"

#include <sys/utsname.h>

#include "absl/strings/str_cat.h"
#include "daemon/base/size.h"
#include "daemon/base/version.h"
#include "daemon/server/call_log.h"
#include "daemon/server/convert.h"

namespace ublkd::server {

std::string KernelRelease() {
  utsname name;
  return uname(&name) == 0 ? name.release : "unknown";
}

grpc::Status DeviceService::CreateDevice(grpc::ServerContext* /*context*/,
                                         const v1::CreateDeviceRequest* request,
                                         v1::Device* response) {
  CallLog log(CallLog::Kind::kChanges, "CreateDevice");
  const absl::StatusOr<volume::DeviceSpec> spec = ToDeviceSpec(request->spec());
  if (!spec.ok()) return log.End(spec.status());
  log.SetSubject(volume::DescribeTarget(*spec));
  const absl::StatusOr<volume::DeviceView> view = devices_.Create(*spec);
  if (!view.ok()) return log.End(view.status());
  log.SetSubject(absl::StrCat(view->path, ": ", volume::DescribeTarget(view->spec)));
  *response = FromDevice(*view);
  return log.End(absl::OkStatus());
}

grpc::Status DeviceService::DeleteDevice(grpc::ServerContext* /*context*/,
                                         const v1::DeleteDeviceRequest* request,
                                         v1::DeleteDeviceResponse* /*response*/) {
  CallLog log(CallLog::Kind::kChanges, "DeleteDevice");
  log.SetSubject(volume::BlockPath(request->id()));
  return log.End(devices_.Delete(request->id()));
}

grpc::Status DeviceService::SetDeviceLimits(grpc::ServerContext* /*context*/,
                                            const v1::SetDeviceLimitsRequest* request,
                                            v1::Device* response) {
  CallLog log(CallLog::Kind::kChanges, "SetDeviceLimits");
  log.SetSubject(volume::BlockPath(request->id()));
  if (!request->has_limits()) {
    return log.End(
        absl::InvalidArgumentError("limits: is missing; give the limits, an empty one for none"));
  }
  const absl::StatusOr<volume::DeviceView> view =
      devices_.SetLimits(request->id(), ToLimits(request->limits()));
  if (!view.ok()) return log.End(view.status());
  log.SetSubject(
      absl::StrCat(view->path, ": limits ",
                   volume::DescribeLimits(view->spec.limits.value_or(target::IoLimits()))));
  *response = FromDevice(*view);
  return log.End(absl::OkStatus());
}

grpc::Status DeviceService::ResizeDevice(grpc::ServerContext* /*context*/,
                                         const v1::ResizeDeviceRequest* request,
                                         v1::Device* response) {
  CallLog log(CallLog::Kind::kChanges, "ResizeDevice");
  log.SetSubject(volume::BlockPath(request->id()));
  const absl::StatusOr<volume::DeviceView> view =
      devices_.Resize(request->id(), request->size_bytes());
  if (!view.ok()) return log.End(view.status());
  log.SetSubject(absl::StrCat(view->path, " to ", FormatBytes(view->size_bytes)));
  *response = FromDevice(*view);
  return log.End(absl::OkStatus());
}

grpc::Status DeviceService::GetDevice(grpc::ServerContext* /*context*/,
                                      const v1::GetDeviceRequest* request, v1::Device* response) {
  CallLog log(CallLog::Kind::kReads, "GetDevice");
  log.SetSubject(volume::BlockPath(request->id()));
  const absl::StatusOr<volume::DeviceView> view = devices_.Get(request->id());
  if (view.ok()) *response = FromDevice(*view);
  return log.End(view.status());
}

grpc::Status DeviceService::ListDevices(grpc::ServerContext* /*context*/,
                                        const v1::ListDevicesRequest* request,
                                        v1::ListDevicesResponse* response) {
  const CallLog log(CallLog::Kind::kReads, "ListDevices");
  const absl::StatusOr<std::vector<volume::DeviceView>> views = devices_.List(request->all());
  if (!views.ok()) return log.End(views.status());
  for (const volume::DeviceView& view : *views) *response->add_devices() = FromDevice(view);
  return log.End(absl::OkStatus());
}

grpc::Status DeviceService::GetServerInfo(grpc::ServerContext* /*context*/,
                                          const v1::GetServerInfoRequest* /*request*/,
                                          v1::ServerInfo* response) {
  const CallLog log(CallLog::Kind::kReads, "GetServerInfo");
  const absl::Status readiness = devices_.Readiness();
  const volume::DriverInfo driver = devices_.Driver();
  response->set_version(kVersion);
  response->set_kernel(KernelRelease());
  response->set_driver_version(driver.version);
  for (const std::string& feature : driver.features) response->add_driver_features(feature);
  response->set_ready(readiness.ok());
  if (!readiness.ok()) response->set_reason(std::string(readiness.message()));
  response->set_guard_connected(devices_.guarded());
  return log.End(absl::OkStatus());
}

}  // namespace ublkd::server
