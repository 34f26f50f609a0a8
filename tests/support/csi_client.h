// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "csi/v1/csi.grpc.pb.h"

namespace ublkd::test {

/// Calls a CSI plugin on a unix socket the way kubelet and the provisioner do. Errors are the
/// plugin's status. Any thread may call.
///
///   CsiClient client("/run/ublkd/csi.sock");
///   auto id = client.CreateVolume("data", 1 << 30);
///   client.Stage(*id, staging, CsiClient::Mount("ext4"));
///   client.Publish(*id, staging, target, CsiClient::Mount("ext4"));
class CsiClient {
 public:
  using Capability = ::csi::v1::VolumeCapability;
  using Mode = Capability::AccessMode::Mode;
  using Parameters = std::map<std::string, std::string>;

  static constexpr Mode kDefaultMode = Capability::AccessMode::SINGLE_NODE_WRITER;

  explicit CsiClient(const std::string& socket_path);

  /// A filesystem in a folder; an empty `fs_type` leaves the type to the plugin.
  static Capability Mount(const std::string& fs_type, Mode mode = kDefaultMode,
                          const std::vector<std::string>& mount_flags = {});
  /// A raw block device at a file.
  static Capability Block(Mode mode = kDefaultMode);

  /// Whether the plugin says that it is ready; the error of the call when it does not answer.
  absl::StatusOr<bool> Probe();
  /// Waits until Probe says so; DEADLINE_EXCEEDED with the last answer when it does not.
  absl::Status WaitUntilReady(std::chrono::milliseconds deadline);

  /// Gives the volume's id.
  absl::StatusOr<std::string> CreateVolume(const std::string& name, int64_t size_bytes,
                                           const Capability& capability = Mount(""),
                                           const Parameters& parameters = {});
  absl::Status DeleteVolume(const std::string& volume_id);
  absl::StatusOr<std::vector<std::string>> ListVolumes();

  absl::Status Stage(const std::string& volume_id, const std::string& staging_path,
                     const Capability& capability);
  absl::Status Unstage(const std::string& volume_id, const std::string& staging_path);
  absl::Status Publish(const std::string& volume_id, const std::string& staging_path,
                       const std::string& target_path, const Capability& capability,
                       bool read_only = false);
  absl::Status Unpublish(const std::string& volume_id, const std::string& target_path);
  absl::StatusOr<::csi::v1::NodeGetVolumeStatsResponse> Stats(const std::string& volume_id,
                                                              const std::string& volume_path);

  /// For calls that the functions above do not cover.
  ::csi::v1::Identity::Stub& identity() { return *identity_; }
  ::csi::v1::Controller::Stub& controller() { return *controller_; }
  ::csi::v1::Node::Stub& node() { return *node_; }

 private:
  const std::unique_ptr<::csi::v1::Identity::Stub> identity_;
  const std::unique_ptr<::csi::v1::Controller::Stub> controller_;
  const std::unique_ptr<::csi::v1::Node::Stub> node_;
};

}  // namespace ublkd::test
