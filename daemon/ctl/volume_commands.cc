// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "daemon/ctl/command_tree.h"
#include "daemon/ctl/lookup.h"
#include "daemon/ctl/render.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::ctl {
namespace {

constexpr char kGroupExamples[] =
    R"(  ublkctl volume create fast/db --size 10GiB
  ublkctl volume list
  ublkctl volume show fast/db
  ublkctl volume resize fast/db --size 20GiB
  ublkctl volume delete fast/db)";

constexpr char kCreateExamples[] =
    R"(  ublkctl volume create fast/db --size 10GiB
  ublkctl volume create db --size 10GiB              # in the only pool
  ublkctl volume create fast/log --size 512MiB --thick --label team=search)";

constexpr char kListExamples[] =
    R"(  ublkctl volume list
  ublkctl volume list --pool fast
  ublkctl volume list -o json | jq -r '.[] | select(.device_id == null) | .id')";

constexpr char kShowExamples[] =
    R"(  ublkctl volume show fast/db
  ublkctl volume show fast/db -o json)";

constexpr char kResizeExamples[] =
    R"EX(  ublkctl volume resize fast/db --size 20GiB
  ublkctl volume resize fast/db --size 20GiB && resize2fs /dev/ublkb0)EX";

constexpr char kDeleteExamples[] =
    R"(  ublkctl volume delete fast/db
  ublkctl volume delete fast/db fast/log)";

constexpr char kVolumeHelp[] = "The volume, as POOL/NAME";

// The values of the options of `volume create`.
struct CreateOptions {
  std::string name;
  uint64_t size_bytes = 0;
  uint32_t block_bytes = 0;
  bool thick = false;
  std::vector<std::string> labels;
};

absl::StatusOr<v1::CreateVolumeRequest> MakeRequest(const CreateOptions& options) {
  v1::CreateVolumeRequest request;
  const size_t slash = options.name.find('/');
  if (slash == std::string::npos) {
    request.set_name(options.name);
  } else {
    request.set_pool(options.name.substr(0, slash));
    request.set_name(options.name.substr(slash + 1));
    if (request.pool().empty()) {
      return UsageError(
          absl::StrCat("\"", options.name, "\" names no pool: give POOL/NAME or NAME"));
    }
  }
  request.set_size_bytes(options.size_bytes);
  request.set_logical_block_bytes(options.block_bytes);
  request.set_provisioning(options.thick ? v1::PROVISIONING_THICK : v1::PROVISIONING_THIN);
  for (const std::string& label : options.labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      return UsageError(absl::StrCat("--label \"", label, "\" is not KEY=VALUE"));
    }
    (*request.mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
  }
  return request;
}

absl::Status CreateVolume(Session& session, const CreateOptions& options) {
  UBLKD_ASSIGN_OR_RETURN(const v1::CreateVolumeRequest request, MakeRequest(options));
  UBLKD_ASSIGN_OR_RETURN(const v1::Volume volume,
                         session.client().Call(&v1::VolumeService::Stub::CreateVolume, request));
  session.PrintAnswer(volume, volume.id());
  return absl::OkStatus();
}

void AddCreate(CommandTree& tree, CLI::App* group) {
  const auto options = std::make_shared<CreateOptions>();
  CLI::App* command = tree.AddCommand(group, "create",
                                      "Create a volume and print its name.\n"
                                      "The same command again prints the same volume.",
                                      kCreateExamples, [options](Session& session) {
                                        return Report(CreateVolume(session, *options));
                                      });
  command
      ->add_option("VOLUME", options->name,
                   "POOL/NAME of the new volume, or NAME when there is only one pool")
      ->required();
  AddSizeOption(command, "--size", &options->size_bytes, "Size, such as 10GiB (required)")
      ->required();
  AddSizeOption(command, "--block-size", &options->block_bytes,
                "Logical block, 512 or 4KiB; default 4KiB when the size allows it");
  command->add_flag("--thick", options->thick,
                    "Take all space now; default is to take it when it is written");
  command
      ->add_option("--label", options->labels, "Keep this label with the volume; may be repeated")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
}

void AddList(CommandTree& tree, CLI::App* group) {
  const auto pool = std::make_shared<std::string>();
  CLI::App* command = tree.AddCommand(group, "list", "List volumes in the order of their names.",
                                      kListExamples, [pool](Session& session) {
                                        const auto volumes = ListVolumes(session.client(), *pool);
                                        if (!volumes.ok()) return Report(volumes.status());
                                        if (session.wants_json()) {
                                          session.Print(ToJsonArray(*volumes));
                                        } else {
                                          session.Print(VolumeTable(*volumes));
                                        }
                                        return ExitCode::kDone;
                                      });
  tree.SetKind(command->add_option("--pool", *pool, "Only those of this pool")->type_name("POOL"),
               {ValueKind::kPool});
}

absl::StatusOr<v1::Volume> GetVolume(Session& session, const std::string& id) {
  v1::GetVolumeRequest request;
  request.set_id(id);
  return session.client().Call(&v1::VolumeService::Stub::GetVolume, request);
}

absl::Status ShowVolume(Session& session, const std::string& id) {
  UBLKD_ASSIGN_OR_RETURN(const v1::Volume volume, GetVolume(session, id));
  session.PrintAnswer(volume, VolumeDetails(volume));
  return absl::OkStatus();
}

void AddShow(CommandTree& tree, CLI::App* group) {
  const auto id = std::make_shared<std::string>();
  CLI::App* command =
      tree.AddCommand(group, "show", "Show all that is known about a volume.", kShowExamples,
                      [id](Session& session) { return Report(ShowVolume(session, *id)); });
  tree.SetKind(command->add_option("VOLUME", *id, kVolumeHelp)->required(), {ValueKind::kVolume});
}

// What the volume and its disk have become, as a sentence.
std::string DescribeSizes(const v1::Volume& volume) {
  const std::string size =
      absl::StrCat("volume ", volume.id(), " has ", FormatBytes(volume.size_bytes()));
  if (!volume.has_device_id()) return size;
  const std::string device = DescribeAttachment(volume);
  if (!HasSmallerDisk(volume)) return absl::StrCat(size, ", and so has ", device);
  return absl::StrCat(size, "; ", device, " keeps ", FormatBytes(volume.device_size_bytes()),
                      " until it is attached again, because its driver cannot resize a disk");
}

absl::Status ResizeVolume(Session& session, const v1::ResizeVolumeRequest& request) {
  UBLKD_ASSIGN_OR_RETURN(const v1::Volume volume,
                         session.client().Call(&v1::VolumeService::Stub::ResizeVolume, request));
  session.PrintAnswer(volume, DescribeSizes(volume));
  return absl::OkStatus();
}

void AddResize(CommandTree& tree, CLI::App* group) {
  struct Options {
    std::string id;
    uint64_t size_bytes = 0;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      tree.AddCommand(group, "resize",
                      "Make a volume larger, also while it is in use. Its disk grows with it.\n"
                      "The filesystem does not: grow it then with resize2fs or xfs_growfs.",
                      kResizeExamples, [options](Session& session) {
                        v1::ResizeVolumeRequest request;
                        request.set_id(options->id);
                        request.set_size_bytes(options->size_bytes);
                        return Report(ResizeVolume(session, request));
                      });
  tree.SetKind(command->add_option("VOLUME", options->id, kVolumeHelp)->required(),
               {ValueKind::kVolume});
  AddSizeOption(command, "--size", &options->size_bytes,
                "New size, such as 20GiB, not less than it has (required)")
      ->required();
}

// Deletes one volume and appends what became of it to `results`.
absl::Status DeleteVolume(Session& session, const std::string& id, Json& results) {
  // Deleting what is not there is success for ublkd; looking first tells which it was.
  const absl::StatusOr<v1::Volume> volume = GetVolume(session, id);
  const bool absent = absl::IsNotFound(volume.status());
  if (!volume.ok() && !absent) return volume.status();
  v1::DeleteVolumeRequest request;
  request.set_id(id);
  const auto answer = session.client().Call(&v1::VolumeService::Stub::DeleteVolume, request);
  if (!answer.ok()) return answer.status();
  results.push_back({{"id", id}, {"deleted", !absent}});
  if (session.wants_json()) return absl::OkStatus();
  session.PrintLine(absent ? absl::StrCat("volume ", id, " was not there: nothing to do")
                           : absl::StrCat("volume ", id, " is deleted with its data (",
                                          FormatBytes(volume->size_bytes()), ")"));
  return absl::OkStatus();
}

ExitCode DeleteVolumes(Session& session, const std::vector<std::string>& ids) {
  ExitCode worst = ExitCode::kDone;
  Json results = Json::array();
  for (const std::string& id : ids) {
    const ExitCode code = Report(DeleteVolume(session, id, results));
    worst = std::max(worst, code);
    // The others would wait for the same server in vain.
    if (code == ExitCode::kUnreachable) break;
  }
  if (session.wants_json()) session.Print(results);
  return worst;
}

void AddDelete(CommandTree& tree, CLI::App* group) {
  const auto ids = std::make_shared<std::vector<std::string>>();
  CLI::App* command = tree.AddCommand(
      group, "delete",
      "Delete volumes and their data, without asking.\n"
      "A volume that is attached is refused; one that is not there is fine.",
      kDeleteExamples, [ids](Session& session) { return DeleteVolumes(session, *ids); });
  tree.SetKind(command->add_option("VOLUME", *ids, kVolumeHelp)->required(), {ValueKind::kVolume});
}

}  // namespace

void AddVolumeCommands(CommandTree& tree) {
  CLI::App* group = tree.AddGroup("volume", "Create, resize and delete volumes.", kGroupExamples);
  AddCreate(tree, group);
  AddList(tree, group);
  AddShow(tree, group);
  AddResize(tree, group);
  AddDelete(tree, group);
}

}  // namespace ublkd::ctl
