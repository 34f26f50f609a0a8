// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/base/log.h"
#include "daemon/server/http.h"
#include "daemon/volume/file_pool.h"

namespace ublkd::server {

/// What the command line and the configuration file say, as text.
struct Flags {
  std::string socket = "/run/ublkd/ublkd.sock";
  std::string state_dir = "/run/ublkd";
  std::vector<std::string> pools;
  std::string metrics_address = "127.0.0.1:9500";
  uint32_t default_queues = 0;
  std::string on_stop = "leave";
  std::string fail_after = "wait";
  /// Empty: in the state folder.
  std::string guard_socket;
  uint32_t shutdown_grace_ms = 5000;
  uint32_t stuck_request_ms = 30000;
  std::string log_level = "info";
};

/// Describes the command line to `app`, which fills `flags` when it parses.
void AddFlags(CLI::App& app, Flags& flags);

/// "NAME=PATH" with an optional ",overcommit=RATIO" at its end. INVALID_ARGUMENT.
absl::StatusOr<volume::FilePoolOptions> ParsePool(const std::string& text);

/// "HOST:PORT", where HOST is an IP address, an IPv6 one in brackets. INVALID_ARGUMENT.
absl::StatusOr<HttpAddress> ParseAddress(const std::string& text);

/// "debug", "info", "warning" or "error". INVALID_ARGUMENT.
absl::StatusOr<LogLevel> ParseLogLevel(const std::string& text);

}  // namespace ublkd::server
