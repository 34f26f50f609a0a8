// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ublkd::ublk {

/// Prepares this process for serving disks: memory reclaim must not wait for a disk that we serve
/// (PR_SET_IO_FLUSHER), and we are the last to be killed when memory is short (OOM score -999).
/// Raises the limit of open files, and does without huge pages: of each device a few small pages in
/// many places are used, which the kernel would make 2 MiB each.
/// What is refused for lack of privilege is logged once and serving goes on. Call it once from
/// main before the first device; threads started later inherit it.
void PrepareServingProcess();

/// Lets this process open as many files as it may: a device takes several descriptors for each
/// queue thread, and the usual limit of 1024 would end at about a hundred devices. As far as the
/// hard limit goes, which is raised as well where that is permitted.
void RaiseDescriptorLimit();

}  // namespace ublkd::ublk
