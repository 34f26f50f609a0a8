// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/mount_options.h"

#include <sys/mount.h>

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace ublkd::csi {
namespace {

struct NamedFlag {
  absl::string_view name;
  unsigned long flag;
};

// What every filesystem takes. That which lifts a protection (dev, suid, exec) or changes other
// mounts (bind, remount, move) is left out on purpose.
constexpr std::array kGenericFlags = {
    NamedFlag{"defaults", 0},
    NamedFlag{"rw", 0},
    NamedFlag{"ro", MS_RDONLY},
    NamedFlag{"async", 0},
    NamedFlag{"sync", MS_SYNCHRONOUS},
    NamedFlag{"dirsync", MS_DIRSYNC},
    NamedFlag{"atime", 0},
    NamedFlag{"noatime", MS_NOATIME},
    NamedFlag{"nodiratime", MS_NODIRATIME},
    NamedFlag{"relatime", MS_RELATIME},
    NamedFlag{"strictatime", MS_STRICTATIME},
    NamedFlag{"lazytime", MS_LAZYTIME},
    NamedFlag{"nosuid", MS_NOSUID},
    NamedFlag{"nodev", MS_NODEV},
    NamedFlag{"noexec", MS_NOEXEC},
    NamedFlag{"silent", MS_SILENT},
};

// Options by filesystem. Those that name another device or file (journal_path, logdev, rtdev), stop
// the machine (errors=panic) or weaken what was written (nobarrier) are left out on purpose.
constexpr std::array<absl::string_view, 34> kExt4Options = {"acl",
                                                            "noacl",
                                                            "auto_da_alloc",
                                                            "noauto_da_alloc",
                                                            "block_validity",
                                                            "noblock_validity",
                                                            "commit",
                                                            "data",
                                                            "delalloc",
                                                            "nodelalloc",
                                                            "discard",
                                                            "nodiscard",
                                                            "dioread_lock",
                                                            "dioread_nolock",
                                                            "errors",
                                                            "grpid",
                                                            "nogrpid",
                                                            "i_version",
                                                            "init_itable",
                                                            "noinit_itable",
                                                            "inode_readahead_blks",
                                                            "journal_checksum",
                                                            "max_batch_time",
                                                            "min_batch_time",
                                                            "mb_optimize_scan",
                                                            "noload",
                                                            "norecovery",
                                                            "prjquota",
                                                            "quota",
                                                            "noquota",
                                                            "stripe",
                                                            "user_xattr",
                                                            "nouser_xattr",
                                                            "usrquota"};
constexpr std::array<absl::string_view, 26> kXfsOptions = {
    "allocsize", "discard", "nodiscard", "filestreams", "grpid",   "nogrpid",   "gquota",
    "ikeep",     "noikeep", "inode32",   "inode64",     "largeio", "nolargeio", "logbsize",
    "logbufs",   "noalign", "noquota",   "norecovery",  "nouuid",  "pquota",    "prjquota",
    "quota",     "sunit",   "swalloc",   "swidth",      "wsync"};
constexpr absl::string_view kForbiddenValue = "errors=panic";

absl::Status Refuse(absl::string_view option, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("volume_capability.mount.mount_flags: option \"",
                                                 option, "\" ", why,
                                                 "; remove it from the mount options"));
}

bool IsPlainText(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return c > ' ' && c < '\x7f' && c != ',' && c != '\\'; });
}

bool IsFilesystemOption(absl::string_view name, absl::string_view fs_type) {
  if (fs_type == "xfs") {
    return std::find(kXfsOptions.begin(), kXfsOptions.end(), name) != kXfsOptions.end();
  }
  return std::find(kExt4Options.begin(), kExt4Options.end(), name) != kExt4Options.end();
}

}  // namespace

absl::StatusOr<MountOptions> ParseMountOptions(const std::vector<std::string>& mount_flags,
                                               absl::string_view fs_type, bool read_only) {
  MountOptions options;
  std::vector<std::string> data;
  bool names_errors = false;
  for (const std::string& flag : mount_flags) {
    const std::vector<absl::string_view> parts = absl::StrSplit(flag, absl::MaxSplits('=', 1));
    const absl::string_view name = parts.front();
    if (!IsPlainText(flag)) {
      return Refuse(IsPlainText(name) ? name : "?",
                    "holds a comma, a space or a control character");
    }
    const auto* generic = std::find_if(kGenericFlags.begin(), kGenericFlags.end(),
                                       [&](const NamedFlag& known) { return known.name == flag; });
    if (generic != kGenericFlags.end()) {
      options.flags |= generic->flag;
    } else if (IsFilesystemOption(name, fs_type) && flag != kForbiddenValue) {
      data.push_back(flag);
      names_errors = names_errors || name == "errors";
    } else {
      return Refuse(name, absl::StrCat("is not allowed for ", fs_type));
    }
  }
  if (read_only) options.flags |= MS_RDONLY;
  if ((options.flags & MS_RDONLY) != 0) {
    if (fs_type == "xfs") {
      data.insert(data.end(), {"norecovery", "nouuid"});
    } else {
      data.emplace_back("noload");
    }
  } else if (fs_type == "ext4" && !names_errors) {
    // After an error nothing more is written, and the next publish is told.
    data.emplace_back("errors=remount-ro");
  }
  options.data = absl::StrJoin(data, ",");
  return options;
}

}  // namespace ublkd::csi
