// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/options.h"

#include <arpa/inet.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/config.h"

namespace ublkd::server {
namespace {

constexpr char kDescription[] =
    "ublkd serves files and volumes as /dev/ublkbN block devices.\n"
    "It is controlled through a unix socket (by ublkctl and ublkd-csi) and logs one JSON object a\n"
    "line on stderr.";

constexpr char kFooter[] = R"(
Example:
  ublkd --pool fast=/var/lib/ublkd/fast --pool big=/mnt/big,overcommit=2
  ublkctl volume create fast/data --size 10GiB
  curl http://127.0.0.1:9500/metrics

The same in a file, given with --config:
  pool:
    - fast=/var/lib/ublkd/fast
    - big=/mnt/big,overcommit=2
  metrics-address: 127.0.0.1:9500

SIGTERM and SIGINT end ublkd. Devices are left: their users wait, and see no error, until the next
ublkd with the same --state-dir takes them over. With --on-stop stop, and where the driver cannot
leave devices, they are stopped; those in use are given --shutdown-grace-ms.
Exit status: 0 stopped, 1 could not start, 2 wrong usage, 3 a device did not stop in time, or its
backend does not answer: the next ublkd takes it over when that answers.)";

absl::Status NotAPool(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--pool \"", text, "\": is not a pool; give NAME=PATH[,overcommit=RATIO] with an ",
      "absolute path and a ratio of at least 1"));
}

}  // namespace

void AddFlags(CLI::App& app, Flags& flags) {
  app.description(kDescription);
  app.footer(kFooter);
  app.get_formatter()->column_width(36);
  app.add_option("--socket", flags.socket, "Unix socket to serve on, made with mode 0600")
      ->capture_default_str();
  app.add_option("--state-dir", flags.state_dir,
                 "Folder of the device records; best on a tmpfs such as /run")
      ->capture_default_str();
  app.add_option("--pool", flags.pools,
                 "Pool of volumes in a folder, as NAME=PATH[,overcommit=RATIO]; may be repeated")
      ->type_name("NAME=PATH")
      ->allow_extra_args(false);
  app.add_option("--metrics-address", flags.metrics_address,
                 "IP address and port for /metrics, /healthz and /readyz, or \"off\"")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--default-queues", flags.default_queues,
                 "Queues of a device that names none; 0: one for each CPU, at most 4")
      ->capture_default_str();
  app.add_option("--on-stop", flags.on_stop,
                 "What becomes of the devices at the end: \"leave\" them to the next ublkd, or "
                 "\"stop\" them")
      ->check(CLI::IsMember({"leave", "stop"}))
      ->capture_default_str();
  app.add_option(
         "--fail-after", flags.fail_after,
         "How long users of a device that says nothing else wait for a server that stays "
         "away, such as 5m, before ublkd-guard answers them with errors; \"wait\": for ever")
      ->type_name("TIME")
      ->capture_default_str();
  app.add_option("--guard-socket", flags.guard_socket,
                 "Unix socket of ublkd-guard; default guard.sock in the --state-dir");
  app.add_option("--shutdown-grace-ms", flags.shutdown_grace_ms,
                 "How long devices in use are waited for at the end, before they are stopped by "
                 "force, when they are not left")
      ->capture_default_str();
  app.add_option("--stuck-request-ms", flags.stuck_request_ms,
                 "A backend that has had a request for so long is said in the log not to answer; "
                 "0: never")
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error")
      ->capture_default_str();
  AddYamlConfig(app);
  AddVersion(app, "ublkd");
}

absl::StatusOr<volume::FilePoolOptions> ParsePool(const std::string& text) {
  constexpr absl::string_view kOvercommit = ",overcommit=";
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return NotAPool(text);
  volume::FilePoolOptions pool;
  pool.name = text.substr(0, equals);
  pool.path = text.substr(equals + 1);
  const size_t ratio = pool.path.rfind(kOvercommit.data());
  if (ratio != std::string::npos) {
    if (!absl::SimpleAtod(pool.path.substr(ratio + kOvercommit.size()), &pool.overcommit)) {
      return NotAPool(text);
    }
    pool.path.resize(ratio);
  }
  if (pool.name.empty() || pool.path.empty() || pool.path.front() != '/' ||
      !(pool.overcommit >= 1.0)) {
    return NotAPool(text);
  }
  return pool;
}

absl::StatusOr<HttpAddress> ParseAddress(const std::string& text) {
  const auto refuse = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics-address \"", text,
                     "\": is not HOST:PORT; give an IP address and a port such as 127.0.0.1:9500, "
                     "or \"off\""));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return refuse();
  HttpAddress address;
  address.host = text.substr(0, colon);
  uint32_t port = 0;
  constexpr uint32_t kMaxPort = 65535;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port > kMaxPort) return refuse();
  address.port = static_cast<uint16_t>(port);
  in_addr v4;
  if (inet_pton(AF_INET, address.host.c_str(), &v4) == 1) return address;
  const size_t length = address.host.size();
  in6_addr v6;
  if (length > 2 && address.host.front() == '[' && address.host.back() == ']' &&
      inet_pton(AF_INET6, address.host.substr(1, length - 2).c_str(), &v6) == 1) {
    return address;
  }
  return refuse();
}

absl::StatusOr<LogLevel> ParseLogLevel(const std::string& text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "info") return LogLevel::kInfo;
  if (text == "warning") return LogLevel::kWarning;
  if (text == "error") return LogLevel::kError;
  return absl::InvalidArgumentError(absl::StrCat(
      "--log-level \"", text, "\": is not a level; give debug, info, warning or error"));
}

}  // namespace ublkd::server
