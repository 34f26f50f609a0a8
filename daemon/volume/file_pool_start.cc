// SPDX-License-Identifier: Apache-2.0
//
// What a file pool does when it is opened: it reads the records and finishes what a killed ublkd
// left half-done.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/volume/file_data.h"
#include "daemon/volume/file_pool.h"
#include "daemon/volume/file_pool_layout.h"
#include "daemon/volume/volume_record.h"

namespace ublkd::volume {

absl::StatusOr<std::unique_ptr<FilePool>> FilePool::Open(const FilePoolOptions& options) {
  UBLKD_RETURN_IF_ERROR(CheckName(options.name, kMaxPoolNameBytes, "pool"));
  if (!(options.overcommit >= 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat("pool ", options.name, ": overcommit ",
                                                   options.overcommit,
                                                   " is less than 1; give 1 or more"));
  }
  auto directory = OwnedDirectory::Open(options.path);
  if (!directory.ok()) return Annotate(directory.status(), absl::StrCat("pool ", options.name));
  std::unique_ptr<FilePool> pool(new FilePool(options, *std::move(directory)));
  const absl::Status loaded = pool->Load();
  if (!loaded.ok()) return Annotate(loaded, absl::StrCat("pool ", options.name));
  return pool;
}

absl::Status FilePool::Load() {
  UBLKD_ASSIGN_OR_RETURN(const std::vector<std::string> files, directory_.List());
  for (const std::string& file : files) LoadFile(file);
  tells_thin_ = TellsHolesFromData(directory_, Provisioning::kThin);
  tells_thick_ = TellsHolesFromData(directory_, Provisioning::kThick);
  return absl::OkStatus();
}

void FilePool::LoadFile(const std::string& file) {
  absl::string_view volume = file;
  if (absl::ConsumeSuffix(&volume, kRecordSuffix)) {
    LoadRecord(std::string(volume));
  } else if (absl::ConsumeSuffix(&volume, kCreatingSuffix)) {
    FinishInterrupted(std::string(volume), file, State::kCreating);
  } else if (absl::ConsumeSuffix(&volume, kDeletingSuffix)) {
    FinishInterrupted(std::string(volume), file, State::kDeleting);
  } else if (absl::ConsumeSuffix(&volume, kGrowingSuffix)) {
    FinishGrowth(std::string(volume));
  } else if (absl::ConsumeSuffix(&volume, kTemporarySuffix)) {
    const bool ours = absl::EndsWith(volume, kRecordSuffix) ||
                      absl::EndsWith(volume, kCreatingSuffix) ||
                      absl::EndsWith(volume, kGrowingSuffix);
    if (ours && !directory_.Remove(file).ok()) {
      LogWarning("leftover in a pool cannot be removed", {{"path", directory_.PathOf(file)}});
    }
  }
}

absl::StatusOr<VolumeRecord> FilePool::ReadRecord(absl::string_view volume,
                                                  const std::string& file) const {
  UBLKD_RETURN_IF_ERROR(CheckName(volume, kMaxIdBytes, "name"));
  UBLKD_ASSIGN_OR_RETURN(const std::string text, directory_.Read(file));
  UBLKD_ASSIGN_OR_RETURN(VolumeRecord record, DecodeVolumeRecord(text));
  if (record.name != volume) {
    return absl::DataLossError(absl::StrCat("it is the record of another volume, ", record.name));
  }
  return record;
}

void FilePool::LoadRecord(const std::string& volume) {
  absl::StatusOr<VolumeRecord> record = ReadRecord(volume, RecordFile(volume));
  if (!record.ok()) return Refuse(volume, record.status());
  Entry entry;
  entry.state = State::kReady;
  entry.record = *std::move(record);
  Put(volume, std::move(entry));
}

// A record that cannot be read keeps its volume out of reach and its files as they are.
void FilePool::Refuse(const std::string& volume, const absl::Status& why) {
  Entry entry;
  entry.state = State::kUnreadable;
  entry.problem = absl::FailedPreconditionError(
      absl::StrCat("volume ", FormatVolumeId(options_.name, volume),
                   " is left alone: its record in ", path(), " cannot be used: ", why.message()));
  LogError("volume is refused", {{"pool", options_.name},
                                 {"path", directory_.PathOf(RecordFile(volume))},
                                 {"reason", std::string(why.message())}});
  Put(volume, std::move(entry));
}

void FilePool::FinishInterrupted(const std::string& volume, const std::string& marker,
                                 State state) {
  const absl::StatusOr<VolumeRecord> record = ReadRecord(volume, marker);
  if (!record.ok()) return Refuse(volume, record.status());
  const auto valid = directory_.Look(RecordFile(volume));
  if (!valid.ok() || valid->has_value()) {
    // We never leave both, so the data belongs to the valid record.
    LogError("leftover beside a valid record is left alone", {{"path", directory_.PathOf(marker)}});
    return;
  }
  const absl::Status removed = RemoveFiles(volume, marker);
  LogWarning(state == State::kCreating ? "volume was being created when ublkd ended; it is removed"
                                       : "volume was being deleted when ublkd ended; it is removed",
             {{"pool", options_.name},
              {"volume", volume},
              {"result", removed.ok() ? std::string("removed") : std::string(removed.message())}});
  if (removed.ok()) return;
  // The next call for the volume tries again.
  Entry entry;
  entry.state = state;
  entry.record = *record;
  Put(volume, std::move(entry));
}

// The volume keeps the size of its record: no disk was ever larger than that.
void FilePool::FinishGrowth(const std::string& volume) {
  const std::string marker = GrowingMarker(volume);
  const absl::StatusOr<VolumeRecord> record = ReadRecord(volume, RecordFile(volume));
  absl::Status ended = ReadRecord(volume, marker).status();
  if (ended.ok() && absl::IsNotFound(record.status())) {
    // It was deleted since.
    ended = directory_.Remove(marker);
  } else if (ended.ok() && record.ok()) {
    ended = TakeBackGrowth(*record);
  } else if (ended.ok()) {
    ended = record.status();
  }
  LogWarning("volume was growing when ublkd ended; it keeps the size it had",
             {{"pool", options_.name},
              {"volume", volume},
              {"result", ended.ok() ? std::string("cut back") : std::string(ended.message())}});
}

}  // namespace ublkd::volume
