// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ublkd::ublk {

/// Prepares this process for serving disks: memory reclaim must not wait for a disk that we serve
/// (PR_SET_IO_FLUSHER), and we are the last to be killed when memory is short (OOM score -999).
/// What is refused for lack of privilege is logged once and serving goes on. Call it once from
/// main before the first device; threads started later inherit it.
void PrepareServingProcess();

}  // namespace ublkd::ublk
