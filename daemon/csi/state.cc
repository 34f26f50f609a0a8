// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/state.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

constexpr int kRecordVersion = 1;
constexpr char kSuffix[] = ".json";
constexpr mode_t kFolderMode = 0700;
constexpr char kBootIdPath[] = "/proc/sys/kernel/random/boot_id";

nlohmann::json Encode(const NodeRecord& record, const std::string& boot_id) {
  nlohmann::json publications = nlohmann::json::array();
  for (const Publication& publication : record.publications) {
    publications.push_back({{"target", publication.target},
                            {"read_only", publication.read_only},
                            {"mode", static_cast<int>(publication.mode)}});
  }
  return {{"version", kRecordVersion},
          {"boot_id", boot_id},
          {"volume_id", record.volume_id},
          {"staging_path", record.staging_path},
          {"block", record.usage.block},
          {"fs_type", record.usage.fs_type},
          {"mount_flags", record.usage.mount_flags},
          {"mode", static_cast<int>(record.usage.mode)},
          {"staged", record.staged},
          {"made_staging_folder", record.made_staging_folder},
          {"device", record.device},
          {"publications", publications}};
}

// Throws nlohmann::json::exception for what is no record.
NodeRecord Decode(const nlohmann::json& json) {
  NodeRecord record;
  record.volume_id = json.at("volume_id");
  record.staging_path = json.at("staging_path");
  record.usage.block = json.at("block");
  record.usage.fs_type = json.at("fs_type");
  record.usage.mount_flags = json.at("mount_flags").get<std::vector<std::string>>();
  record.usage.mode = static_cast<AccessMode::Mode>(json.at("mode").get<int>());
  record.staged = json.at("staged");
  record.made_staging_folder = json.at("made_staging_folder");
  record.device = json.at("device");
  for (const auto& publication : json.at("publications")) {
    record.publications.push_back(
        {publication.at("target"), publication.at("read_only"),
         static_cast<AccessMode::Mode>(publication.at("mode").get<int>())});
  }
  return record;
}

}  // namespace

const Publication* NodeRecord::FindPublication(const std::string& target) const {
  const auto found =
      std::find_if(publications.begin(), publications.end(),
                   [&](const Publication& publication) { return publication.target == target; });
  return found == publications.end() ? nullptr : &*found;
}

void NodeRecord::RemovePublication(const std::string& target) {
  const auto is_it = [&](const Publication& publication) { return publication.target == target; };
  publications.erase(std::remove_if(publications.begin(), publications.end(), is_it),
                     publications.end());
}

absl::StatusOr<std::unique_ptr<NodeState>> NodeState::Open(const std::string& folder) {
  UBLKD_RETURN_IF_ERROR(MakeDirectories(folder, kFolderMode));
  UBLKD_ASSIGN_OR_RETURN(std::string boot_id, ReadFile(kBootIdPath));
  boot_id = std::string(absl::StripSuffix(boot_id, "\n"));
  std::unique_ptr<NodeState> state(new NodeState(folder, boot_id));
  UBLKD_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(folder));
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name);
    if (!absl::EndsWith(name, kSuffix) || !state->LoadFile(path).has_value()) {
      UBLKD_RETURN_IF_ERROR(RemoveFile(path));
    }
  }
  return state;
}

std::string NodeState::FilePath(const std::string& volume_id) const {
  // '%' is no character of a volume id, so no two ids share a file.
  return absl::StrCat(folder_, "/", absl::StrReplaceAll(volume_id, {{"/", "%2F"}}), kSuffix);
}

std::optional<NodeRecord> NodeState::LoadFile(const std::string& path) const {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return std::nullopt;
  try {
    const nlohmann::json json = nlohmann::json::parse(*text);
    if (json.at("version") == kRecordVersion && json.at("boot_id") == boot_id_) {
      return Decode(json);
    }
    LogInfo("a record of another boot or version is discarded", {{"path", path}});
  } catch (const nlohmann::json::exception& error) {
    LogWarning("a record cannot be read and is discarded",
               {{"path", path}, {"error", error.what()}});
  }
  return std::nullopt;
}

std::optional<NodeRecord> NodeState::Load(const std::string& volume_id) const {
  return LoadFile(FilePath(volume_id));
}

absl::Status NodeState::Save(const NodeRecord& record) const {
  return WriteFileAtomically(FilePath(record.volume_id), Encode(record, boot_id_).dump());
}

absl::Status NodeState::Remove(const std::string& volume_id) const {
  return RemoveFile(FilePath(volume_id));
}

std::vector<NodeRecord> NodeState::LoadAll() const {
  std::vector<NodeRecord> records;
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory(folder_);
  if (!names.ok()) return records;
  for (const std::string& name : *names) {
    if (!absl::EndsWith(name, kSuffix)) continue;
    if (auto record = LoadFile(absl::StrCat(folder_, "/", name))) records.push_back(*record);
  }
  return records;
}

}  // namespace ublkd::csi
