// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/file.h"

namespace ublkd::ublk {

/// Claims a disk for us alone, so that nobody can mount it meanwhile, and looks for those who have
/// it or one of its partitions open. FAILED_PRECONDITION names what was found, NOT_FOUND there is
/// no such disk. For drivers without a safe stop: another open may slip in between this look and
/// the stop.
absl::StatusOr<UniqueFd> ClaimUnusedDisk(const std::string& block_path, dev_t disk);

}  // namespace ublkd::ublk
