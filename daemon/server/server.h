// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "daemon/base/rpc.h"
#include "daemon/server/device_service.h"
#include "daemon/server/http.h"
#include "daemon/server/metrics.h"
#include "daemon/server/options.h"
#include "daemon/server/volume_service.h"
#include "daemon/volume/device_manager.h"
#include "daemon/volume/guard_link.h"
#include "daemon/volume/volume_manager.h"

namespace ublkd::server {

/// All of ublkd but its command line and its signals.
class Server {
 public:
  /// Opens the pools, takes the state folder and the socket, and begins to answer. `factory`
  /// outlives the server. The error names what could not be had.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Flags& flags,
                                                       volume::DeviceFactory& factory);
  /// Ends what Stop has left.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Takes no more calls, stops the devices (those in use by force after the grace time of the
  /// flags) and removes the socket.
  ///
  /// False when a backend does not answer: the server cannot be destroyed then, see EndProcess.
  bool Stop();

  /// Of the HTTP endpoint; 0 when it is off.
  uint16_t http_port() const { return http_ == nullptr ? 0 : http_->port(); }
  /// How many devices are there now.
  size_t device_count() const { return devices_->Snapshot().size(); }

 private:
  explicit Server(const Flags& flags) : flags_(flags) {}
  absl::Status OpenVolumes();
  void LogStart(volume::DeviceFactory& factory) const;
  absl::Status OpenDevices(volume::DeviceFactory& factory);
  absl::Status StartHttp();
  absl::Status StartRpc();
  HttpResponse AnswerReadiness();

  const Flags flags_;
  // In the order in which they depend on one another; they end in the other order.
  std::unique_ptr<volume::VolumeManager> volumes_;
  std::unique_ptr<volume::GuardLink> guard_;
  std::unique_ptr<volume::DeviceManager> devices_;
  std::unique_ptr<VolumeService> volume_service_;
  std::unique_ptr<DeviceService> device_service_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<RpcServer> rpc_;
};

/// Ends the process at once, without destroying anything. The kernel may keep a process for as long
/// as a request of it hangs: what the next server needs is let go of first.
[[noreturn]] void EndProcess(int exit_code);

}  // namespace ublkd::server
