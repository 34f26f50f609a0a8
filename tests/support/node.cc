// SPDX-License-Identifier: Apache-2.0
#include "tests/support/node.h"

#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "daemon/base/file.h"
#include "daemon/base/rpc.h"
#include "daemon/base/status.h"

namespace ublkd::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr char kControlNode[] = "/dev/ublk-control";
constexpr seconds kStartLimit(60);
constexpr seconds kStopLimit(60);

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::Status Annotated(const absl::Status& status, const std::string& log_path) {
  const absl::StatusOr<std::string> log = ReadFile(log_path);
  return Annotate(status, absl::StrCat(log_path, ":\n", log.ok() ? *log : "(unreadable)", "\n"));
}

// Waits until somebody listens on `socket`, or the program has ended.
absl::Status WaitForSocket(Process& program, const std::string& socket, const std::string& log) {
  const auto channel = ConnectToUnixSocket(socket);
  const auto deadline = std::chrono::system_clock::now() + kStartLimit;
  bool answered = false;
  while (!answered && program.Running() && std::chrono::system_clock::now() < deadline) {
    answered = channel->WaitForConnected(std::chrono::system_clock::now() + milliseconds(250));
  }
  if (!program.Running()) {
    return Annotated(absl::InternalError("the program ended at its start"), log);
  }
  if (!answered) return Annotated(absl::DeadlineExceededError("nobody listens on " + socket), log);
  return absl::OkStatus();
}

absl::Status EndByTerm(std::unique_ptr<Process>& program, const std::string& log) {
  if (program == nullptr) return absl::OkStatus();
  program->Signal(SIGTERM);
  const absl::StatusOr<int> code = program->Wait(kStopLimit);
  if (!code.ok()) return Annotated(code.status(), log);
  program.reset();
  if (*code != 0) {
    return Annotated(absl::InternalError(absl::StrCat("the program ended with ", *code)), log);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadDriver() {
  if (Exists(kControlNode)) return absl::OkStatus();
  const char* module = std::getenv("UBLK_DRV_KO");
  const std::vector<std::string> command = module != nullptr
                                               ? std::vector<std::string>{"insmod", module}
                                               : std::vector<std::string>{"modprobe", "ublk_drv"};
  UBLKD_RETURN_IF_ERROR(RunCommand(command).status());
  if (!Eventually([] { return Exists(kControlNode); }, kStartLimit)) {
    return absl::InternalError("the driver is loaded and /dev/ublk-control is not there");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Node>> Node::Start(const NodeOptions& options) {
  UBLKD_RETURN_IF_ERROR(LoadDriver());
  std::unique_ptr<Node> node(new Node(options));
  UBLKD_RETURN_IF_ERROR(node->MakeFolders());
  // One node at a time uses this port: it is bound only inside the machine.
  node->metrics_address_ = "127.0.0.1:9500";
  UBLKD_RETURN_IF_ERROR(node->StartDaemon());
  UBLKD_RETURN_IF_ERROR(node->StartCsi());
  return node;
}

absl::Status Node::MakeFolders() const {
  for (const char* name :
       {"/pool", "/kubelet/plugins", "/kubelet/pods", "/run", "/state", "/log"}) {
    UBLKD_RETURN_IF_ERROR(MakeDirectories(options_.root_dir + name, 0700));
  }
  return absl::OkStatus();
}

absl::Status Node::StartDaemon() {
  if (daemon_ != nullptr && daemon_->Running()) return absl::OkStatus();
  std::vector<std::string> command = {"env",
                                      "UBLKD_FAILPOINT=" + fail_point_,
                                      daemon_program_,
                                      "--socket=" + daemon_socket(),
                                      "--state-dir=" + options_.root_dir + "/state/ublkd",
                                      "--pool=local=" + pool_dir(),
                                      "--metrics-address=" + metrics_address_};
  if (options_.queues > 0) command.push_back(absl::StrCat("--default-queues=", options_.queues));
  command.insert(command.end(), options_.daemon_flags.begin(), options_.daemon_flags.end());
  UBLKD_ASSIGN_OR_RETURN(daemon_, Process::Start(command, daemon_log()));
  UBLKD_RETURN_IF_ERROR(WaitForSocket(*daemon_, daemon_socket(), daemon_log()));
  const auto channel = ConnectToUnixSocket(daemon_socket());
  volumes_ = ublkd::v1::VolumeService::NewStub(channel);
  devices_ = ublkd::v1::DeviceService::NewStub(channel);
  return absl::OkStatus();
}

absl::Status Node::StartCsi() {
  if (csi_ != nullptr && csi_->Running()) return absl::OkStatus();
  const std::vector<std::string> command = {
      options_.program_dir + "/ublkd-csi", "--endpoint=" + csi_socket(),
      "--ublkd-socket=" + daemon_socket(), "--node-id=node-1",
      "--kubelet-dir=" + kubelet_dir(),    "--state-dir=" + options_.root_dir + "/state/csi"};
  UBLKD_ASSIGN_OR_RETURN(csi_, Process::Start(command, csi_log()));
  return WaitForSocket(*csi_, csi_socket(), csi_log());
}

absl::Status Node::WaitUntilReady() const {
  absl::Status status;
  const auto is_ready = [&] {
    status = Fetch("/readyz").status();
    return status.ok();
  };
  return Eventually(is_ready, kStartLimit) ? absl::OkStatus() : Annotated(status, daemon_log());
}

absl::Status Node::StopCsi() { return EndByTerm(csi_, csi_log()); }

absl::Status Node::StopDaemon() { return EndByTerm(daemon_, daemon_log()); }

absl::Status Node::Stop() {
  UBLKD_RETURN_IF_ERROR(StopCsi());
  return StopDaemon();
}

void Node::KillDaemon() {
  daemon_->Signal(SIGKILL);
  [[maybe_unused]] const absl::StatusOr<int> code = daemon_->Wait(kStopLimit);
  daemon_.reset();
}

Node::~Node() {
  // A test that ends early must not leave a device behind that the next one trips over.
  [[maybe_unused]] const absl::Status status = Stop();
}

absl::StatusOr<std::string> Node::Fetch(const std::string& path) const {
  return RunCommand({"curl", "--silent", "--show-error", "--fail", metrics_url() + path});
}

std::vector<Sample> ParseMetrics(const std::string& text) {
  std::vector<Sample> samples;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "#")) continue;
    const size_t value_at = line.rfind(' ');
    if (value_at == absl::string_view::npos) continue;
    Sample sample;
    if (!absl::SimpleAtod(line.substr(value_at + 1), &sample.value)) continue;
    absl::string_view series = line.substr(0, value_at);
    const size_t brace = series.find('{');
    sample.name = std::string(series.substr(0, brace));
    if (brace != absl::string_view::npos) {
      series = absl::StripSuffix(series.substr(brace + 1), "}");
      for (const absl::string_view label : absl::StrSplit(series, "\",", absl::SkipEmpty())) {
        const std::pair<absl::string_view, absl::string_view> parts =
            absl::StrSplit(label, absl::MaxSplits("=\"", 1));
        sample.labels[std::string(parts.first)] =
            std::string(absl::StripSuffix(parts.second, "\""));
      }
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace ublkd::test
