// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <set>
#include <string>

namespace ublkd::test {

/// Everything of the machine that an operation could leave behind. Two snapshots that are equal
/// mean that nothing was.
struct Belongings {
  std::set<std::string> devices;  // ublk block and char devices, loop devices with a file
  std::set<std::string> mounts;   // mount points
  std::set<std::string> files;    // below the folders that were asked for
};

/// Looks at the machine now. `folders` are searched for files, at any depth.
Belongings TakeStock(const std::set<std::string>& folders);

/// What `after` has that `before` has not, and the other way, a line each; empty when equal.
std::string Differences(const Belongings& before, const Belongings& after);

/// Open descriptors and threads of a process, without the threads of gRPC's pools, which come and
/// go.
struct ProcessUse {
  size_t descriptors = 0;
  size_t queue_threads = 0;
};
ProcessUse UseOf(pid_t pid);

}  // namespace ublkd::test
