// SPDX-License-Identifier: Apache-2.0
#include "tests/support/leaks.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ublkd::test {
namespace {

namespace fs = std::filesystem;

std::set<std::string> Devices() {
  std::set<std::string> found;
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator("/dev", gone)) {
    const std::string name = entry.path().filename();
    if (absl::StartsWith(name, "ublkb") || absl::StartsWith(name, "ublkc")) found.insert(name);
  }
  for (const auto& entry : fs::directory_iterator("/sys/class/block", gone)) {
    const std::string name = entry.path().filename();
    const bool ours = absl::StartsWith(name, "ublkb");
    if (ours || fs::exists(entry.path() / "loop/backing_file")) found.insert("block " + name);
  }
  for (const auto& entry : fs::directory_iterator("/sys/class/ublk-char", gone)) {
    found.insert("char " + entry.path().filename().string());
  }
  return found;
}

std::set<std::string> Mounts() {
  std::set<std::string> found;
  std::ifstream table("/proc/self/mountinfo");
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    found.insert(absl::StrCat(point, " (", device, root, ", mount ", id, ")"));
  }
  return found;
}

std::set<std::string> Files(const std::set<std::string>& folders) {
  std::set<std::string> found;
  for (const std::string& folder : folders) {
    std::error_code gone;
    for (const auto& entry : fs::recursive_directory_iterator(folder, gone)) {
      found.insert(entry.path());
    }
  }
  return found;
}

void AddDifferences(const char* kind, const std::set<std::string>& before,
                    const std::set<std::string>& after, std::string& text) {
  for (const std::string& item : after) {
    if (!before.contains(item)) absl::StrAppend(&text, "left behind: ", kind, " ", item, "\n");
  }
  for (const std::string& item : before) {
    if (!after.contains(item)) absl::StrAppend(&text, "is gone: ", kind, " ", item, "\n");
  }
}

size_t CountDescriptors(pid_t pid) {
  size_t count = 0;
  std::error_code gone;
  for ([[maybe_unused]] const auto& entry :
       fs::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), gone)) {
    ++count;
  }
  return count;
}

size_t CountQueueThreads(pid_t pid) {
  size_t count = 0;
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(absl::StrCat("/proc/", pid, "/task"), gone)) {
    std::ifstream name_file(entry.path() / "comm");
    std::string name;
    std::getline(name_file, name);
    // "ublk7-q0".
    if (absl::StartsWith(name, "ublk") && absl::StrContains(name, "-q")) ++count;
  }
  return count;
}

}  // namespace

Belongings TakeStock(const std::set<std::string>& folders) {
  return {.devices = Devices(), .mounts = Mounts(), .files = Files(folders)};
}

std::string Differences(const Belongings& before, const Belongings& after) {
  std::string text;
  AddDifferences("device", before.devices, after.devices, text);
  AddDifferences("mount", before.mounts, after.mounts, text);
  AddDifferences("file", before.files, after.files, text);
  return text;
}

ProcessUse UseOf(pid_t pid) {
  return {.descriptors = CountDescriptors(pid), .queue_threads = CountQueueThreads(pid)};
}

}  // namespace ublkd::test
