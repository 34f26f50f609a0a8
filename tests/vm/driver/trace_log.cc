// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/trace_log.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "tests/vm/driver/disk_user.h"

namespace ublkd::driver_test {
namespace {

const std::string kInstance = "/sys/kernel/tracing/instances/ublk_driver_test";

}  // namespace

TraceLog::TraceLog(const std::string& events) {
  works_ = mkdir(kInstance.c_str(), 0700) == 0 &&
           WriteLine(kInstance + "/events/" + events + "/enable", "1");
}

TraceLog::~TraceLog() {
  Stop();
  WriteLine(kInstance + "/events/enable", "0");
  rmdir(kInstance.c_str());
}

void TraceLog::Stop() { WriteLine(kInstance + "/tracing_on", "0"); }

std::vector<std::string> TraceLog::Of(const std::string& name) const {
  // "task-pid [cpu] flags time: name: text"
  const std::string mark = ": " + name + ": ";
  std::vector<std::string> texts;
  std::ifstream trace(kInstance + "/trace");
  for (std::string line; std::getline(trace, line);) {
    const size_t at = line.find(mark);
    if (at != std::string::npos) texts.push_back(line.substr(at + mark.size()));
  }
  return texts;
}

}  // namespace ublkd::driver_test
