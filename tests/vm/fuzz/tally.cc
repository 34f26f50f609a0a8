// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/tally.h"

namespace ublkd::driver_fuzz {
namespace {

constexpr std::array<const char*, static_cast<size_t>(Kind::kCount)> kNames = {
    "ctrl: add",   "del",        "start",    "stop",    "try_stop",  "params",       "get",
    "resize",      "quiesce",    "recover",  "ended",   "reg",       "unreg",        "nonsense",
    "io: fetch",   "commit",     "get_data", "reg_buf", "unreg_buf", "prep",         "batch_commit",
    "batch_fetch", "chan: mmap", "copy",     "pass",    "fork",      "disk: served", "read",
    "write",       "ioctl",      "kills"};

}  // namespace

std::string Tally::Line() const {
  std::string line;
  for (size_t i = 0; i < kKinds; ++i) {
    line += std::string(" ") + kNames[i] + " " + std::to_string(succeeded_[i]) + "/" +
            std::to_string(tried_[i]);
  }
  return line;
}

}  // namespace ublkd::driver_fuzz
