// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/paths.h"

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ublkd::csi {
namespace {

constexpr size_t kMaxPathBytes = 4095;

absl::Status Refuse(absl::string_view field, absl::string_view path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(field, " \"", path, "\" ", why));
}

std::string Resolve(const std::string& path) {
  std::error_code error;
  // Components that do not exist yet stay as they are.
  return std::filesystem::weakly_canonical(path, error).string();
}

bool IsBelow(absl::string_view path, absl::string_view folder) {
  return absl::StartsWith(path, absl::StrCat(folder, "/"));
}

}  // namespace

absl::StatusOr<std::string> ResolvePath(absl::string_view path, absl::string_view field,
                                        const std::string& kubelet_dir) {
  if (!absl::StartsWith(path, "/")) return Refuse(field, path, "is relative; give an absolute one");
  if (path.size() > kMaxPathBytes || absl::StrContains(path, absl::string_view("\0", 1))) {
    return Refuse(field, path.substr(0, kMaxPathBytes), "is too long or holds a zero byte");
  }
  std::vector<std::string> components = absl::StrSplit(path, '/', absl::SkipEmpty());
  for (const std::string& component : components) {
    if (component == "." || component == "..") {
      return Refuse(field, path, "has a component \".\" or \"..\"; give it without");
    }
  }
  if (components.empty()) return Refuse(field, path, "is the root folder");
  const std::string name = components.back();
  components.pop_back();
  std::string parent;
  for (const std::string& component : components) absl::StrAppend(&parent, "/", component);
  const std::string resolved = absl::StrCat(Resolve(parent.empty() ? "/" : parent), "/", name);
  if (!IsBelow(resolved, Resolve(kubelet_dir))) {
    return Refuse(field, path,
                  absl::StrCat("is outside the kubelet folder ", kubelet_dir,
                               "; give --kubelet-dir the folder that kubelet uses"));
  }
  return resolved;
}

}  // namespace ublkd::csi
