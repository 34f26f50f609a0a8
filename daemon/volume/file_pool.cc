// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/file_pool.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "daemon/volume/file_data.h"
#include "daemon/volume/file_pool_layout.h"
#include "daemon/volume/volume_record.h"

namespace ublkd::volume {

FilePool::FilePool(FilePoolOptions options, OwnedDirectory directory)
    : options_(std::move(options)), directory_(std::move(directory)) {}

absl::StatusOr<FilePool::Entry> FilePool::Find(absl::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(name);
  const Entry* entry = found == entries_.end() ? nullptr : &found->second;
  UBLKD_RETURN_IF_ERROR(Refusal(name, entry));
  return *entry;
}

// Why a volume cannot be used; OK when it can.
absl::Status FilePool::Refusal(absl::string_view name, const Entry* entry) const {
  if (entry != nullptr && entry->state == State::kReady) return absl::OkStatus();
  if (entry != nullptr && entry->state == State::kUnreadable) return entry->problem;
  return absl::NotFoundError(
      absl::StrCat("volume ", FormatVolumeId(options_.name, name),
                   " does not exist; list the volumes to see what there is"));
}

void FilePool::Put(absl::string_view name, Entry entry) {
  const std::lock_guard lock(mutex_);
  entries_[std::string(name)] = std::move(entry);
}

void FilePool::Forget(absl::string_view name) {
  const std::lock_guard lock(mutex_);
  entries_.erase(std::string(name));
}

std::vector<std::string> FilePool::Names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) {
    if (entry.state == State::kReady) names.push_back(name);
  }
  return names;
}

absl::StatusOr<VolumeRecord> FilePool::Describe(absl::string_view name) const {
  UBLKD_ASSIGN_OR_RETURN(Entry entry, Find(name));
  return std::move(entry.record);
}

absl::StatusOr<Volume> FilePool::Get(absl::string_view name) {
  UBLKD_ASSIGN_OR_RETURN(const VolumeRecord record, Describe(name));
  return Observe(record);
}

bool FilePool::Contains(absl::string_view path) const {
  return absl::ConsumePrefix(&path, directory_.path()) &&
         (directory_.path() == "/" || path.empty() || path.front() == '/');
}

// Looks at the data file. One that is gone or is something else shows as content unknown; Locate
// has the words for it.
Volume FilePool::Observe(const VolumeRecord& record) const {
  Volume volume;
  volume.pool = options_.name;
  volume.record = record;
  const auto facts = directory_.Look(DataFile(record.name));
  if (facts.ok() && facts->has_value()) volume.allocated_bytes = AllocatedBytes(**facts);
  volume.content = LookForData(record);
  return volume;
}

Content FilePool::LookForData(const VolumeRecord& record) const {
  const bool tells = record.provisioning == Provisioning::kThick ? tells_thick_ : tells_thin_;
  if (!tells) return Content::kUnknown;
  const absl::StatusOr<UniqueFd> file = directory_.OpenRegular(DataFile(record.name), O_RDONLY);
  if (!file.ok()) return Content::kUnknown;
  // Worth the cache only where the answer decides about formatting.
  const bool drop_cache = record.provisioning == Provisioning::kThick &&
                          record.format.state != Format::State::kFormatted;
  return FindContent(file->get(), drop_cache);
}

absl::StatusOr<std::string> FilePool::Locate(absl::string_view name) const {
  UBLKD_ASSIGN_OR_RETURN(const VolumeRecord record, Describe(name));
  const std::string id = FormatVolumeId(options_.name, name);
  const absl::StatusOr<UniqueFd> file = directory_.OpenRegular(DataFile(name), O_RDONLY);
  if (absl::IsNotFound(file.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat("volume ", id, " has lost its data: ", directory_.PathOf(DataFile(name)),
                     " is gone; restore the file or delete the volume"));
  }
  if (!file.ok()) return Annotate(file.status(), absl::StrCat("volume ", id));
  struct stat facts;
  if (fstat(file->get(), &facts) != 0) {
    return ErrnoStatus(errno, absl::StrCat("volume ", id, ": cannot look at its file"));
  }
  if (static_cast<uint64_t>(facts.st_size) != record.size_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "volume ", id, " is damaged: its file has ", facts.st_size, " bytes, its record says ",
        record.size_bytes, "; restore the file's size or delete the volume"));
  }
  return directory_.PathOf(DataFile(name));
}

absl::StatusOr<PoolCapacity> FilePool::Capacity() const {
  struct statvfs space;
  if (fstatvfs(directory_.fd(), &space) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot read the free space of ", path()));
  }
  PoolCapacity capacity;
  capacity.total_bytes = uint64_t{space.f_blocks} * space.f_frsize;
  const double offered =
      static_cast<double>(uint64_t{space.f_bavail} * space.f_frsize) * options_.overcommit;
  const double left =
      offered - static_cast<double>(PromisedBytes(std::numeric_limits<uint64_t>::max()));
  capacity.available_bytes = left > 0 ? static_cast<uint64_t>(left) : 0;
  capacity.volumes = Names().size();
  return capacity;
}

uint64_t FilePool::PromisedBytes(uint64_t turn) const {
  std::vector<std::pair<std::string, uint64_t>> sizes;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      if (entry.turn >= turn) continue;
      const uint64_t growing_to = entry.growing_turn < turn ? entry.growing_to_bytes : 0;
      sizes.emplace_back(name, std::max(entry.record.size_bytes, growing_to));
    }
  }
  uint64_t promised = 0;
  for (const auto& [name, size_bytes] : sizes) {
    const auto facts = directory_.Look(DataFile(name));
    const bool there = facts.ok() && facts->has_value();
    // A volume whose record cannot be read was promised at least what its file says.
    const uint64_t size =
        std::max(size_bytes, there ? static_cast<uint64_t>((*facts)->st_size) : 0);
    const uint64_t taken = there ? AllocatedBytes(**facts) : 0;
    if (size > taken) promised += size - taken;
  }
  return promised;
}

// Whether `bytes` more can be promised; `what` is what they are for.
absl::Status FilePool::CheckRoom(absl::string_view what, uint64_t bytes, Provisioning provisioning,
                                 uint64_t turn) const {
  struct statvfs space;
  if (fstatvfs(directory_.fd(), &space) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot read the free space of ", path()));
  }
  const uint64_t free_bytes = uint64_t{space.f_bavail} * space.f_frsize;
  const double left = static_cast<double>(free_bytes) * options_.overcommit -
                      static_cast<double>(PromisedBytes(turn));
  const bool fits = static_cast<double>(bytes) <= left;
  const bool fits_now = provisioning == Provisioning::kThin || bytes <= free_bytes;
  if (fits && fits_now) return absl::OkStatus();
  const uint64_t available = left > 0 ? static_cast<uint64_t>(left) : 0;
  return absl::ResourceExhaustedError(absl::StrCat(
      "pool ", options_.name, " has no room for ", what, ": ",
      FormatBytes(fits_now ? available : std::min(available, free_bytes)),
      " are available; delete volumes, enlarge ", path(), " or raise the pool's overcommit"));
}

// Takes the name, or finds who has it. The entry that is returned is kReady when the volume is
// there already, else kCreating.
absl::StatusOr<FilePool::Entry> FilePool::Begin(const VolumeRequest& request) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[request.name];
  if (entry.state == State::kReady) {
    UBLKD_RETURN_IF_ERROR(CheckSame(options_.name, entry.record, request));
    return entry;
  }
  if (entry.state == State::kUnreadable) return entry.problem;
  if (entry.state == State::kDeleting) return entry;
  const absl::Time now = absl::Now();
  entry.turn = next_turn_++;
  entry.record.name = request.name;
  entry.record.size_bytes = request.size_bytes;
  entry.record.logical_block_bytes = ChooseBlockBytes(request);
  entry.record.provisioning = request.provisioning.value_or(Provisioning::kThin);
  entry.record.labels = request.labels;
  entry.record.format.state = Format::State::kNever;
  entry.record.format.changed_at = now;
  entry.record.created_at = now;
  entry.record.generation = 1;
  return entry;
}

absl::StatusOr<Volume> FilePool::Create(const VolumeRequest& request) {
  UBLKD_ASSIGN_OR_RETURN(Entry entry, Begin(request));
  if (entry.state == State::kDeleting) {
    UBLKD_RETURN_IF_ERROR(Delete(request.name));
    UBLKD_ASSIGN_OR_RETURN(entry, Begin(request));
  }
  if (entry.state == State::kReady) return Observe(entry.record);

  absl::Status made = RemoveFiles(request.name, CreatingMarker(request.name));
  if (made.ok()) {
    made = CheckRoom(absl::StrCat("volume ", request.name, " of ", FormatBytes(request.size_bytes)),
                     request.size_bytes, entry.record.provisioning, entry.turn);
  }
  if (made.ok()) made = MakeFiles(entry.record);
  if (!made.ok()) {
    UndoCreation(request.name);
    return made;
  }
  entry.state = State::kReady;
  Put(request.name, entry);
  return Observe(entry.record);
}

// The marker tells a start after a kill that the data file is ours and unfinished; renaming it to
// the record's name is the moment at which the volume exists.
absl::Status FilePool::MakeFiles(const VolumeRecord& record) {
  UBLKD_ASSIGN_OR_RETURN(const auto stray, directory_.Look(DataFile(record.name)));
  if (stray.has_value()) {
    return absl::AlreadyExistsError(
        absl::StrCat("cannot make volume ", FormatVolumeId(options_.name, record.name), ": ",
                     directory_.PathOf(DataFile(record.name)),
                     " is there and belongs to no volume; move it away or choose another name"));
  }
  const std::string marker = CreatingMarker(record.name);
  UBLKD_RETURN_IF_ERROR(directory_.Write(marker, EncodeVolumeRecord(record)));
  if (const absl::Status data = MakeData(record); !data.ok()) {
    // Somebody else's file appeared under the name just now: it must not go with the marker.
    if (absl::IsAlreadyExists(data)) UBLKD_RETURN_IF_ERROR(directory_.Remove(marker));
    return Annotate(
        data, absl::StrCat("cannot make volume ", FormatVolumeId(options_.name, record.name)));
  }
  return directory_.Rename(marker, RecordFile(record.name));
}

// What cannot be removed now keeps its marker and goes at the next try or start.
void FilePool::UndoCreation(absl::string_view name) {
  // The last step may have failed after its rename.
  const auto record = directory_.Look(RecordFile(name));
  if (!record.ok()) return;
  if (record->has_value() && !directory_.Rename(RecordFile(name), CreatingMarker(name)).ok()) {
    return;
  }
  if (RemoveFiles(name, CreatingMarker(name)).ok()) Forget(name);
}

absl::Status FilePool::MakeData(const VolumeRecord& record) const {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd data, directory_.CreateNew(DataFile(record.name)));
  UBLKD_RETURN_IF_ERROR(GiveSize(data.get(), record.size_bytes, record.provisioning));
  return directory_.Sync();
}

// Removes a volume's data when `marker` says that it is to go, then the marker.
absl::Status FilePool::RemoveFiles(absl::string_view name, absl::string_view marker) {
  UBLKD_ASSIGN_OR_RETURN(const auto marked, directory_.Look(marker));
  if (!marked.has_value()) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(directory_.Remove(DataFile(name)));
  return directory_.Remove(marker);
}

absl::Status FilePool::Delete(absl::string_view name) {
  Entry entry;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end()) return absl::OkStatus();
    entry = found->second;
  }
  if (entry.state == State::kUnreadable) return entry.problem;
  if (entry.state == State::kReady) {
    // A rename and not a new record, because it needs no space: a full pool can be emptied.
    const absl::Status renamed = directory_.Rename(RecordFile(name), DeletingMarker(name));
    const auto record = directory_.Look(RecordFile(name));
    // It may have failed after the rename; then a repeated call goes on from here.
    if (renamed.ok() || (record.ok() && !record->has_value())) {
      entry.state = State::kDeleting;
      Put(name, entry);
    }
    UBLKD_RETURN_IF_ERROR(renamed);
  }
  UBLKD_RETURN_IF_ERROR(RemoveFiles(
      name, entry.state == State::kDeleting ? DeletingMarker(name) : CreatingMarker(name)));
  Forget(name);
  return absl::OkStatus();
}

absl::StatusOr<Volume> FilePool::SetFormat(absl::string_view name, Format::State expected,
                                           const Format& format) {
  UBLKD_ASSIGN_OR_RETURN(Entry entry, Find(name));
  UBLKD_RETURN_IF_ERROR(CheckFormatChange(FormatVolumeId(options_.name, name), entry.record.format,
                                          expected, format));
  entry.record.format = format;
  entry.record.format.changed_at = absl::Now();
  ++entry.record.generation;
  const absl::Status written = directory_.Write(RecordFile(name), EncodeVolumeRecord(entry.record));
  if (!written.ok()) {
    // It may have failed after the file was replaced: what is on disk counts.
    absl::StatusOr<VolumeRecord> kept = ReadRecord(name, RecordFile(name));
    if (!kept.ok()) return written;
    entry.record = *std::move(kept);
  }
  Put(name, entry);
  UBLKD_RETURN_IF_ERROR(written);
  return Observe(entry.record);
}

}  // namespace ublkd::volume
