// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/options.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

// Of a label's key and value, and of a driver name.
constexpr size_t kMaxLabelBytes = 63;
constexpr size_t kMaxHostNameBytes = 256;

bool IsLabel(absl::string_view text, absl::string_view inner) {
  return !text.empty() && text.size() <= kMaxLabelBytes && absl::ascii_isalnum(text.front()) &&
         absl::ascii_isalnum(text.back()) &&
         std::all_of(text.begin(), text.end(), [&](unsigned char c) {
           return absl::ascii_isalnum(c) || absl::StrContains(inner, static_cast<char>(c));
         });
}

absl::Status Refuse(absl::string_view option, absl::string_view value, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("--", option, " \"", value, "\" ", why));
}

absl::Status CheckFolder(absl::string_view option, std::string& path) {
  if (!absl::StartsWith(path, "/") || path == "/") {
    return Refuse(option, path, "is no absolute path of a folder");
  }
  while (absl::EndsWith(path, "/")) path.pop_back();
  return absl::OkStatus();
}

absl::Status CheckTopologyKey(absl::string_view key) {
  const std::vector<absl::string_view> parts = absl::StrSplit(key, '/');
  const bool valid = (parts.size() == 1 && IsLabel(parts[0], "-_.")) ||
                     (parts.size() == 2 && IsLabel(parts[0], "-.") && IsLabel(parts[1], "-_."));
  if (valid) return absl::OkStatus();
  return Refuse("topology-key", key, "is no label key; give one of the form example.com/node");
}

absl::StatusOr<std::string> HostName() {
  std::array<char, kMaxHostNameBytes> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) {
    return ErrnoStatus(errno, "cannot tell the host's name", "give --node-id");
  }
  return std::string(name.data());
}

}  // namespace

absl::Status CompleteOptions(Options& options) {
  for (const absl::string_view scheme : {"unix://", "unix:"}) {
    if (absl::StartsWith(options.endpoint, scheme)) options.endpoint.erase(0, scheme.size());
  }
  if (!absl::StartsWith(options.endpoint, "/")) {
    return Refuse("endpoint", options.endpoint, "is no unix socket; give unix:///absolute/path");
  }
  UBLKD_RETURN_IF_ERROR(CheckFolder("kubelet-dir", options.kubelet_dir));
  // Mounts are listed under the paths that symbolic links lead to.
  std::error_code error;
  options.kubelet_dir = std::filesystem::weakly_canonical(options.kubelet_dir, error).string();
  UBLKD_RETURN_IF_ERROR(CheckFolder("state-dir", options.state_dir));
  if (!IsLabel(options.driver_name, "-.")) {
    return Refuse("driver-name", options.driver_name,
                  "is no driver name; give at most 63 letters, digits, '-' and '.'");
  }
  if (options.node_id.empty()) {
    UBLKD_ASSIGN_OR_RETURN(options.node_id, HostName());
  }
  if (!IsLabel(options.node_id, "-_.")) {
    return Refuse(
        "node-id", options.node_id,
        "cannot be the value of a label; give at most 63 letters, digits, '-', '_' and '.'");
  }
  if (options.topology_key.empty()) {
    options.topology_key = absl::StrCat("topology.", options.driver_name, "/node");
  }
  return CheckTopologyKey(options.topology_key);
}

}  // namespace ublkd::csi
