// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/server.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/fail_after.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/base/version.h"

namespace ublkd::server {
namespace {

constexpr mode_t kFolderMode = 0700;
/// How long calls that run when the server stops may go on.
constexpr std::chrono::milliseconds kCallGrace{2000};
/// For calls that were cancelled to notice it.
constexpr std::chrono::milliseconds kCallMargin{1000};
constexpr char kLeave[] = "leave";
constexpr char kMetricsOff[] = "off";

absl::StatusOr<volume::DeviceBounds> MakeBounds(uint32_t default_queues) {
  volume::DeviceBounds bounds;
  const uint32_t cpus = std::max(1u, std::thread::hardware_concurrency());
  bounds.max_queues = std::min<uint32_t>(cpus, ublk::kMaxQueues);
  bounds.default_queues = default_queues != 0
                              ? default_queues
                              : std::min<uint32_t>(bounds.max_queues, ublk::kMaxDefaultQueues);
  if (bounds.default_queues <= bounds.max_queues) return bounds;
  return absl::InvalidArgumentError(absl::StrCat("--default-queues ", default_queues,
                                                 ": is more than there are CPUs; give 0 to ",
                                                 bounds.max_queues));
}

absl::StatusOr<std::string> ReadBootId() {
  UBLKD_ASSIGN_OR_RETURN(const std::string text, ReadFile("/proc/sys/kernel/random/boot_id"));
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Flags& flags,
                                                      volume::DeviceFactory& factory) {
  std::unique_ptr<Server> server(new Server(flags));
  UBLKD_RETURN_IF_ERROR(server->OpenVolumes());
  UBLKD_RETURN_IF_ERROR(server->OpenDevices(factory));
  server->LogStart(factory);
  UBLKD_RETURN_IF_ERROR(server->StartHttp());
  // Last: who can call finds all of it.
  UBLKD_RETURN_IF_ERROR(server->StartRpc());
  return server;
}

void Server::LogStart(volume::DeviceFactory& factory) const {
  const auto name_pool = [](std::string* out, const volume::Pool* pool) {
    absl::StrAppend(out, pool->name(), "=", pool->path());
  };
  const absl::StatusOr<volume::DriverInfo> driver = factory.Driver();
  std::string driver_text = "missing";
  if (driver.ok()) driver_text = driver->version.empty() ? "the kernel's own" : driver->version;
  LogInfo("ublkd starts", {{"version", kVersion},
                           {"kernel", KernelRelease()},
                           {"driver", driver_text},
                           {"pools", absl::StrJoin(volumes_->Pools(), " ", name_pool)},
                           {"socket", flags_.socket},
                           {"metrics_address", flags_.metrics_address}});
}

absl::Status Server::OpenVolumes() {
  std::vector<std::unique_ptr<volume::Pool>> pools;
  for (const std::string& text : flags_.pools) {
    UBLKD_ASSIGN_OR_RETURN(const volume::FilePoolOptions options, ParsePool(text));
    UBLKD_ASSIGN_OR_RETURN(std::unique_ptr<volume::FilePool> pool, volume::FilePool::Open(options));
    pools.push_back(std::move(pool));
  }
  UBLKD_ASSIGN_OR_RETURN(volumes_, volume::VolumeManager::Make(std::move(pools)));
  return absl::OkStatus();
}

absl::Status Server::OpenDevices(volume::DeviceFactory& factory) {
  if (!absl::StartsWith(flags_.state_dir, "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--state-dir \"", flags_.state_dir, "\": is relative; give an absolute path"));
  }
  volume::DeviceManagerOptions options;
  UBLKD_ASSIGN_OR_RETURN(options.bounds, MakeBounds(flags_.default_queues));
  UBLKD_ASSIGN_OR_RETURN(options.boot_id, ReadBootId());
  if (flags_.stuck_request_ms == 0) {
    options.watch.stuck_after = absl::InfiniteDuration();
  } else {
    options.watch.stuck_after = absl::Milliseconds(flags_.stuck_request_ms);
  }
  options.leave_devices = flags_.on_stop == kLeave;
  const absl::StatusOr<uint32_t> fail_after = ParseFailAfter(flags_.fail_after);
  if (!fail_after.ok()) return Annotate(fail_after.status(), "--fail-after");
  options.fail_after_seconds = *fail_after;
  guard_ = std::make_unique<volume::GuardLink>(
      flags_.guard_socket.empty() ? volume::GuardSocketOf(flags_.state_dir) : flags_.guard_socket);
  options.guard = guard_.get();
  UBLKD_ASSIGN_OR_RETURN(volume::DeviceRecords records,
                         volume::DeviceRecords::Open(absl::StrCat(flags_.state_dir, "/devices")));
  devices_ =
      std::make_unique<volume::DeviceManager>(options, factory, *volumes_, std::move(records));
  volumes_->SetAttachments(devices_.get());
  return absl::OkStatus();
}

HttpResponse Server::AnswerReadiness() {
  absl::Status status = devices_->Started();
  if (status.ok()) status = devices_->Readiness();
  HttpResponse response;
  response.code = status.ok() ? 200 : 503;
  response.body = status.ok() ? "ready\n" : absl::StrCat(std::string(status.message()), "\n");
  return response;
}

absl::Status Server::StartHttp() {
  if (flags_.metrics_address == kMetricsOff) return absl::OkStatus();
  UBLKD_ASSIGN_OR_RETURN(const HttpAddress address, ParseAddress(flags_.metrics_address));
  metrics_ = std::make_unique<Metrics>(*devices_, *volumes_);
  std::map<std::string, HttpServer::Handler> handlers;
  handlers["/metrics"] = [this] {
    return HttpResponse{200, kMetricsContentType, SerializeMetrics(*metrics_)};
  };
  handlers["/healthz"] = [] { return HttpResponse{200, "text/plain; charset=utf-8", "ok\n"}; };
  handlers["/readyz"] = [this] { return AnswerReadiness(); };
  UBLKD_ASSIGN_OR_RETURN(http_, HttpServer::Start(address, std::move(handlers)));
  return absl::OkStatus();
}

absl::Status Server::StartRpc() {
  volume_service_ =
      std::make_unique<VolumeService>(*volumes_, [this] { return devices_->Started(); });
  device_service_ = std::make_unique<DeviceService>(*devices_);
  const std::string folder = std::filesystem::path(flags_.socket).parent_path();
  UBLKD_RETURN_IF_ERROR(MakeDirectories(folder, kFolderMode));
  grpc::ServerBuilder builder;
  builder.RegisterService(volume_service_.get());
  builder.RegisterService(device_service_.get());
  UBLKD_ASSIGN_OR_RETURN(rpc_, RpcServer::Start(builder, flags_.socket));
  // Only now, so that a server that cannot have its socket touches no device, nor has the guard let
  // go of one.
  guard_->Start();
  devices_->Start();
  return absl::OkStatus();
}

bool Server::Stop() {
  // Beside the rest, because the HTTP server notices only every two seconds that it is to end, and
  // a call may wait for a backend that does not answer.
  std::thread http_end([this] { http_.reset(); });
  std::promise<void> ended;
  std::future<void> calls_ended = ended.get_future();
  std::thread calls_end([this, ended = std::move(ended)]() mutable {
    if (rpc_ != nullptr) rpc_->Shutdown(kCallGrace);
    ended.set_value();
  });
  bool all_ended = calls_ended.wait_for(kCallGrace + kCallMargin) == std::future_status::ready;
  if (devices_ != nullptr &&
      !devices_->Shutdown(std::chrono::milliseconds(flags_.shutdown_grace_ms))) {
    all_ended = false;
  }
  http_end.join();
  if (!all_ended) {
    calls_end.detach();
    return false;
  }
  calls_end.join();
  rpc_.reset();
  return true;
}

void EndProcess(int exit_code) {
  close_range(STDERR_FILENO + 1, ~0U, 0);
  _exit(exit_code);
}

Server::~Server() { Stop(); }

}  // namespace ublkd::server
