// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/probe.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"
#include "daemon/csi/blockdev.h"

namespace ublkd::csi {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = 1024 * kMiB;
// Superblocks lie in the first MiB, tables and RAID metadata also in the last one.
constexpr uint64_t kEdgeBytes = kMiB;
// btrfs keeps copies of its superblock here; they outlive a wipe of the first one.
constexpr uint64_t kMirrorOffsets[] = {64 * kMiB, 256 * kGiB};
constexpr uint64_t kMirrorBytes = uint64_t{64} << 10;

// Results of blkid_do_safeprobe.
constexpr int kProbeFound = 0;
constexpr int kProbeNothing = 1;
constexpr int kProbeAmbivalent = -2;

struct Region {
  uint64_t offset;
  uint64_t size;
};

// The places that are looked at, within a device of `size_bytes`.
std::vector<Region> Regions(uint64_t size_bytes) {
  std::vector<Region> regions;
  const auto add = [&](uint64_t offset, uint64_t size) {
    if (offset < size_bytes) regions.push_back({offset, std::min(size, size_bytes - offset)});
  };
  add(0, kEdgeBytes);
  for (const uint64_t offset : kMirrorOffsets) add(offset, kMirrorBytes);
  if (size_bytes > kEdgeBytes) add(size_bytes - kEdgeBytes, kEdgeBytes);
  return regions;
}

absl::Status CannotTell(absl::string_view path, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("cannot tell what ", path, " holds: ", why,
                                             "; it is not formatted, look at the state of its "
                                             "device and backend"));
}

// True when every byte of the region is zero; an error unless all of it was read.
absl::StatusOr<bool> IsZero(int fd, const std::string& path, const Region& region) {
  std::vector<char> buffer(region.size);
  uint64_t done = 0;
  while (done < region.size) {
    const ssize_t got = pread(fd, buffer.data() + done, region.size - done,
                              static_cast<off_t>(region.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      const std::string why = got == 0 ? "it ends early" : ErrnoStatus(errno, "").ToString();
      return CannotTell(path, absl::StrCat("reading ", region.size, " bytes at offset ",
                                           region.offset, " fails, ", why));
    }
    done += static_cast<uint64_t>(got);
  }
  return std::all_of(buffer.begin(), buffer.end(), [](char byte) { return byte == 0; });
}

absl::StatusOr<bool> AllZero(int fd, const std::string& path, const std::vector<Region>& regions) {
  bool all = true;
  for (const Region& region : regions) {
    // Every region is read even when an earlier one has data: a read that fails is an answer too.
    UBLKD_ASSIGN_OR_RETURN(const bool zero, IsZero(fd, path, region));
    all = all && zero;
  }
  return all;
}

struct ProbeDeleter {
  void operator()(blkid_struct_probe* probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<blkid_struct_probe, ProbeDeleter>;

std::string Value(blkid_probe probe, const char* name) {
  const char* value = nullptr;
  if (blkid_probe_lookup_value(probe, name, &value, nullptr) != 0 || value == nullptr) return "";
  return value;
}

// Whether `probe` finds signatures in more than one place: a filesystem and a partition table.
DeviceContents Read(blkid_probe probe) {
  const std::string type = Value(probe, "TYPE");
  const std::string table = Value(probe, "PTTYPE");
  if (!type.empty() && !table.empty()) return {DeviceContents::Kind::kAmbivalent, "", ""};
  if (!table.empty()) return {DeviceContents::Kind::kPartitionTable, table, ""};
  return {DeviceContents::Kind::kFilesystem, type.empty() ? "unnamed" : type, Value(probe, "UUID")};
}

absl::StatusOr<DeviceContents> AskBlkid(int fd, const std::string& path) {
  const Probe probe(blkid_new_probe());
  if (probe == nullptr || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) {
    return CannotTell(path, "libblkid cannot open it");
  }
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(),
                                    BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_USAGE);
  blkid_probe_enable_partitions(probe.get(), 1);
  const int found = blkid_do_safeprobe(probe.get());
  switch (found) {
    case kProbeFound:
      return Read(probe.get());
    case kProbeNothing:
      return DeviceContents{DeviceContents::Kind::kBlank, "", ""};
    case kProbeAmbivalent:
      return DeviceContents{DeviceContents::Kind::kAmbivalent, "", ""};
    default:
      return CannotTell(path, "libblkid reports an error");
  }
}

}  // namespace

absl::StatusOr<DeviceContents> ProbeDevice(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenExclusively(path, O_RDONLY));
  UBLKD_RETURN_IF_ERROR(DropDeviceCache(file.get()));
  UBLKD_ASSIGN_OR_RETURN(const uint64_t size_bytes, DeviceSizeBytes(file.get()));
  const std::vector<Region> regions = Regions(size_bytes);
  // libblkid takes a place that it cannot read for one without a signature. It looks at these
  // places, so they are read first, and again in case that reading broke meanwhile.
  UBLKD_ASSIGN_OR_RETURN(const bool zero, AllZero(file.get(), path, regions));
  UBLKD_ASSIGN_OR_RETURN(DeviceContents contents, AskBlkid(file.get(), path));
  UBLKD_RETURN_IF_ERROR(AllZero(file.get(), path, regions).status());
  if (contents.kind == DeviceContents::Kind::kBlank && !zero) {
    contents.kind = DeviceContents::Kind::kUnknownData;
  }
  return contents;
}

absl::Status WipeSignatures(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenExclusively(path, O_RDWR));
  UBLKD_ASSIGN_OR_RETURN(const uint64_t size_bytes, DeviceSizeBytes(file.get()));
  for (const Region& region : Regions(size_bytes)) {
    const std::vector<char> zeroes(region.size);
    uint64_t done = 0;
    while (done < region.size) {
      const ssize_t wrote = pwrite(file.get(), zeroes.data() + done, region.size - done,
                                   static_cast<off_t>(region.offset + done));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote <= 0) return ErrnoStatus(errno, absl::StrCat("cannot clear ", path));
      done += static_cast<uint64_t>(wrote);
    }
  }
  if (fsync(file.get()) != 0) return ErrnoStatus(errno, absl::StrCat("cannot clear ", path));
  return absl::OkStatus();
}

std::string Describe(const DeviceContents& contents) {
  switch (contents.kind) {
    case DeviceContents::Kind::kBlank:
      return "nothing";
    case DeviceContents::Kind::kFilesystem:
      return absl::StrCat("content of type ", contents.type);
    case DeviceContents::Kind::kPartitionTable:
      return absl::StrCat("a partition table of type ", contents.type);
    case DeviceContents::Kind::kAmbivalent:
      return "signatures of more than one kind";
    case DeviceContents::Kind::kUnknownData:
      return "data without a known signature";
  }
  return "something unknown";
}

}  // namespace ublkd::csi
