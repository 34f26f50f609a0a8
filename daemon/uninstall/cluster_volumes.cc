// SPDX-License-Identifier: Apache-2.0
#include "daemon/uninstall/cluster_volumes.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"
#include "daemon/uninstall/kube_api.h"

namespace ublkd::uninstall {
namespace {

using nlohmann::json;

constexpr char kVolumes[] = "/api/v1/persistentvolumes?limit=500";
/// A list that changes so fast that it cannot be read to its end is begun so often.
constexpr int kMostBeginnings = 5;
/// More than any cluster has.
constexpr int kMostPages = 10'000;
constexpr size_t kMostNamed = 10;
constexpr size_t kMostNameBytes = 253;

/// What is not a name of Kubernetes is not printed.
std::string PrintableName(absl::string_view name) {
  std::string printable(name.substr(0, kMostNameBytes));
  for (char& letter : printable) {
    const auto byte = static_cast<unsigned char>(letter);
    if (!absl::ascii_isalnum(byte) && !absl::StrContains("-._", letter)) letter = '?';
  }
  return printable;
}

/// The member of an object, or null, whatever `value` is.
const json& Member(const json& value, const char* name) {
  static const json null;
  if (!value.is_object()) return null;
  const auto found = value.find(name);
  return found == value.end() ? null : *found;
}

std::string Text(const json& value) {
  return value.is_string() ? value.get<std::string>() : std::string();
}

}  // namespace

absl::StatusOr<VolumePage> ParseVolumePage(absl::string_view text, absl::string_view driver) {
  const json list = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  const json& items = Member(list, "items");
  const bool is_list = Text(Member(list, "kind")) == "PersistentVolumeList";
  // Without volumes it may be null.
  if (!is_list || (!items.is_array() && !items.is_null())) {
    return absl::DataLossError("the answer of the API is not a list of PersistentVolumes");
  }
  VolumePage page;
  page.next = Text(Member(Member(list, "metadata"), "continue"));
  for (const json& item : items) {
    const json& spec = Member(item, "spec");
    if (Text(Member(Member(spec, "csi"), "driver")) != driver) continue;
    ClusterVolume volume{.name = PrintableName(Text(Member(Member(item, "metadata"), "name")))};
    const json& claim = Member(spec, "claimRef");
    if (claim.is_object()) {
      volume.claim = absl::StrCat(PrintableName(Text(Member(claim, "namespace"))), "/",
                                  PrintableName(Text(Member(claim, "name"))));
    }
    page.volumes.push_back(std::move(volume));
  }
  return page;
}

absl::StatusOr<std::vector<ClusterVolume>> ListVolumes(const GetPath& get,
                                                       absl::string_view driver) {
  std::vector<ClusterVolume> volumes;
  std::string next;
  int beginnings = 1;
  for (int pages = 0; pages < kMostPages; ++pages) {
    const absl::StatusOr<std::string> answer =
        get(next.empty() ? kVolumes : absl::StrCat(kVolumes, "&continue=", EscapeForUrl(next)));
    if (absl::IsAborted(answer.status()) && beginnings++ < kMostBeginnings) {
      volumes.clear();
      next.clear();
      continue;
    }
    UBLKD_RETURN_IF_ERROR(answer.status());
    UBLKD_ASSIGN_OR_RETURN(const VolumePage page, ParseVolumePage(*answer, driver));
    volumes.insert(volumes.end(), page.volumes.begin(), page.volumes.end());
    next = page.next;
    if (next.empty()) return volumes;
  }
  return absl::UnavailableError("the list of PersistentVolumes does not end");
}

std::string DescribeVolumesLeft(const std::vector<ClusterVolume>& volumes,
                                absl::string_view driver) {
  std::string text = absl::StrCat(volumes.size(), volumes.size() == 1 ? " volume" : " volumes",
                                  " of ", driver, volumes.size() == 1 ? " is" : " are", " left:");
  const size_t named = std::min(volumes.size(), kMostNamed);
  for (size_t i = 0; i < named; ++i) {
    absl::StrAppend(&text, i == 0 ? " " : ", ", volumes[i].name);
    if (!volumes[i].claim.empty()) absl::StrAppend(&text, " (claim ", volumes[i].claim, ")");
  }
  if (named < volumes.size()) absl::StrAppend(&text, " and ", volumes.size() - named, " more");
  absl::StrAppend(&text,
                  "; without ublkd their users wait, and nobody can delete them: delete pods and "
                  "claims first, or uninstall with `helm uninstall --no-hooks` to leave them for a "
                  "later installation");
  return text;
}

}  // namespace ublkd::uninstall
