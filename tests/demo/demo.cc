// SPDX-License-Identifier: Apache-2.0
//
// The main job on real input: a pod's volume from its making to its end, through the kernel driver,
// ublkd and ublkd-csi, as kubelet would ask for it.
#include <sys/utsname.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "tests/demo/story.h"
#include "tests/support/leaks.h"
#include "tests/support/node.h"
#include "tests/support/pod_volume.h"

namespace ublkd::demo {
namespace {

namespace fs = std::filesystem;
using test::Belongings;
using test::Node;
using test::PodVolume;
using test::RunCommand;
using test::Sample;

struct Options {
  std::string program_dir = "/opt/ublkd/bin";
  std::string root_dir = "/scratch/demo";
  std::string tree = "/usr/share";
};

constexpr int64_t kVolumeBytes = int64_t{512} << 20;
constexpr char kVolumeName[] = "pvc-demo";
constexpr char kPool[] = "local";

// ios and bytes of each queue, by (queue, operation).
struct QueueUse {
  double ios = 0;
  double bytes = 0;
  double errors = 0;
};
using QueueUses = std::map<std::pair<std::string, std::string>, QueueUse>;

absl::StatusOr<QueueUses> ScrapeQueues(const Node& node) {
  UBLKD_ASSIGN_OR_RETURN(const std::string text, node.Fetch("/metrics"));
  QueueUses uses;
  for (const Sample& sample : test::ParseMetrics(text)) {
    if (!sample.labels.contains("queue") || !sample.labels.contains("op")) continue;
    QueueUse& use = uses[{sample.labels.at("queue"), sample.labels.at("op")}];
    if (sample.name == "ublkd_queue_ios_total") use.ios = sample.value;
    if (sample.name == "ublkd_queue_bytes_total") use.bytes = sample.value;
    if (sample.name == "ublkd_queue_io_errors_total") use.errors = sample.value;
  }
  return uses;
}

void PrintQueues(Story& story, const QueueUses& before, const QueueUses& after, double seconds) {
  story.Note(absl::StrFormat("%-6s %-13s %10s %12s %10s %7s", "queue", "operation", "requests",
                             "IOPS", "MiB/s", "errors"));
  for (const auto& [key, use] : after) {
    const auto old = before.find(key);
    const QueueUse from = old == before.end() ? QueueUse() : old->second;
    constexpr double kMebibyte = 1 << 20;
    story.Note(absl::StrFormat("%-6s %-13s %10.0f %12.0f %10.1f %7.0f", key.first, key.second,
                               use.ios - from.ios, (use.ios - from.ios) / seconds,
                               (use.bytes - from.bytes) / seconds / kMebibyte,
                               use.errors - from.errors));
  }
}

// "<sum>  <path>" of every file below `folder`.
absl::StatusOr<std::string> Checksums(const std::string& folder) {
  return RunCommand({"sh", "-c",
                     "cd \"$1\" && find . -type f -print0 | sort -z | xargs -0 sha256sum", "sh",
                     folder});
}

class Demo {
 public:
  Demo(Options options, Story& story) : options_(std::move(options)), story_(story) {}

  absl::Status Play();

 private:
  absl::Status StartPrograms();
  absl::Status MakeVolume();
  absl::Status FillVolume();
  absl::Status VerifyUnderLoad();
  absl::Status TakeAwayAndGiveBack();
  absl::Status CleanUp();

  std::string folder() const { return volume_->target_path(); }

  Options options_;
  Story& story_;
  Belongings before_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<PodVolume> volume_;
  std::string sums_;
};

absl::Status Demo::Play() {
  UBLKD_RETURN_IF_ERROR(StartPrograms());
  UBLKD_RETURN_IF_ERROR(MakeVolume());
  UBLKD_RETURN_IF_ERROR(FillVolume());
  UBLKD_RETURN_IF_ERROR(VerifyUnderLoad());
  UBLKD_RETURN_IF_ERROR(TakeAwayAndGiveBack());
  return CleanUp();
}

absl::Status Demo::StartPrograms() {
  utsname system{};
  uname(&system);
  std::cout << "A pod's volume on Linux " << system.release << "\n\n";

  story_.Begin("Loading the driver ublk_drv");
  const bool was_loaded = fs::exists("/sys/module/ublk_drv");
  UBLKD_RETURN_IF_ERROR(test::LoadDriver());
  story_.End(was_loaded ? "was loaded" : "/dev/ublk-control is there");
  before_ = test::TakeStock({});

  story_.Begin("Starting ublkd and ublkd-csi");
  UBLKD_ASSIGN_OR_RETURN(
      node_, Node::Start({.program_dir = options_.program_dir, .root_dir = options_.root_dir}));
  story_.End("both answer");
  return absl::OkStatus();
}

absl::Status Demo::MakeVolume() {
  volume_ = std::make_unique<PodVolume>(
      node_->csi_socket(), node_->kubelet_dir(),
      test::Claim{
          .name = kVolumeName, .size_bytes = kVolumeBytes, .fs_type = "ext4", .parameters = {}});
  story_.Begin(absl::StrFormat("CreateVolume %s, %s", kVolumeName, FormatBytes(kVolumeBytes)));
  UBLKD_RETURN_IF_ERROR(volume_->Create());
  story_.End("volume " + volume_->id());

  story_.Begin("NodeStageVolume: attach, format, mount");
  UBLKD_RETURN_IF_ERROR(volume_->Stage());
  UBLKD_ASSIGN_OR_RETURN(
      const std::string mount,
      RunCommand({"findmnt", "-n", "-o", "SOURCE,FSTYPE", volume_->staging_path()}));
  story_.End(absl::StrJoin(absl::StrSplit(mount, absl::ByAnyChar(" \n"), absl::SkipEmpty()), ", "));

  story_.Begin("NodePublishVolume: the pod sees it");
  UBLKD_RETURN_IF_ERROR(volume_->Publish());
  story_.End("mounted");
  return absl::OkStatus();
}

absl::Status Demo::FillVolume() {
  story_.Begin("Copying the files of " + options_.tree + " into it");
  UBLKD_RETURN_IF_ERROR(RunCommand({"cp", "-a", options_.tree, folder() + "/tree"}).status());
  UBLKD_RETURN_IF_ERROR(RunCommand({"sync", "-f", folder()}).status());
  UBLKD_ASSIGN_OR_RETURN(sums_, Checksums(folder()));
  UBLKD_ASSIGN_OR_RETURN(const std::string size, RunCommand({"du", "-sh", folder() + "/tree"}));
  const size_t files = static_cast<size_t>(std::count(sums_.begin(), sums_.end(), '\n'));
  story_.End(absl::StrFormat("%d files, %s", files, size.substr(0, size.find('\t'))));
  return absl::OkStatus();
}

absl::Status Demo::VerifyUnderLoad() {
  story_.Begin("fio: 32 MiB of random 4 KiB writes, then every block's crc32c read back");
  UBLKD_ASSIGN_OR_RETURN(const QueueUses before, ScrapeQueues(*node_));
  const auto start = std::chrono::steady_clock::now();
  UBLKD_RETURN_IF_ERROR(
      RunCommand({"fio", "--name=verify", "--filename=" + folder() + "/fio", "--size=16m",
                  "--numjobs=2", "--offset_increment=16m", "--bs=4k", "--rw=randwrite",
                  "--direct=1", "--ioengine=io_uring", "--iodepth=16", "--verify=crc32c",
                  "--verify_fatal=1"})
          .status());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  story_.End("all right");

  story_.Begin("GET " + node_->metrics_url() + "/metrics: what each queue did meanwhile");
  UBLKD_ASSIGN_OR_RETURN(const QueueUses after, ScrapeQueues(*node_));
  story_.End(absl::StrFormat("%d series", after.size()));
  PrintQueues(story_, before, after, took.count());
  return RunCommand({"rm", folder() + "/fio"}).status();
}

absl::Status Demo::TakeAwayAndGiveBack() {
  story_.Begin("NodeUnpublishVolume, NodeUnstageVolume");
  UBLKD_RETURN_IF_ERROR(volume_->Unpublish());
  UBLKD_RETURN_IF_ERROR(volume_->Unstage());
  story_.End("detached");

  story_.Begin("NodeStageVolume, NodePublishVolume: the same volume again");
  UBLKD_RETURN_IF_ERROR(volume_->Stage());
  UBLKD_RETURN_IF_ERROR(volume_->Publish());
  story_.End("mounted, not formatted");

  story_.Begin("Reading every file again");
  UBLKD_ASSIGN_OR_RETURN(const std::string sums, Checksums(folder()));
  if (sums != sums_) return absl::DataLossError("checksums differ after the volume came back");
  story_.End("every checksum is right");
  return absl::OkStatus();
}

absl::Status Demo::CleanUp() {
  story_.Begin("Unpublish, unstage, DeleteVolume, and SIGTERM to both programs");
  UBLKD_RETURN_IF_ERROR(volume_->Unpublish());
  UBLKD_RETURN_IF_ERROR(volume_->Unstage());
  UBLKD_RETURN_IF_ERROR(volume_->Delete());
  UBLKD_RETURN_IF_ERROR(node_->Stop());
  story_.End("both ended with 0");

  story_.Begin("Looking for devices, mounts and files left behind");
  const std::string left = test::Differences(before_, test::TakeStock({}));
  if (!left.empty()) return absl::InternalError(left);
  fs::remove_all(options_.root_dir);
  story_.End("none");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Plays a pod's life with a volume through the driver, ublkd and ublkd-csi");
  app.add_option("--program-dir", options.program_dir, "Folder of ublkd and ublkd-csi")
      ->capture_default_str();
  app.add_option("--root-dir", options.root_dir, "Folder for all that the demo makes")
      ->capture_default_str();
  app.add_option("--tree", options.tree, "Folder whose files are copied into the volume")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  Story story;
  if (const absl::Status status = Demo(options, story).Play(); !status.ok()) {
    story.Fail(status);
    return 1;
  }
  std::cout << "\nDone: the pod's files survived, and nothing is left behind.\n";
  return 0;
}

}  // namespace
}  // namespace ublkd::demo

int main(int argc, char** argv) { return ublkd::demo::Main(argc, argv); }
