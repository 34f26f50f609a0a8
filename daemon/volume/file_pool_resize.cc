// SPDX-License-Identifier: Apache-2.0
//
// How a volume in a file pool grows: first its data, then its record, so that what the record
// promises is always there.
#include <fcntl.h>

#include "absl/strings/str_cat.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/log.h"
#include "daemon/base/size.h"
#include "daemon/base/status.h"
#include "daemon/volume/file_data.h"
#include "daemon/volume/file_pool.h"
#include "daemon/volume/file_pool_layout.h"
#include "daemon/volume/volume_record.h"

namespace ublkd::volume {

absl::StatusOr<Volume> FilePool::Resize(absl::string_view name, uint64_t size_bytes) {
  UBLKD_ASSIGN_OR_RETURN(Entry entry, Find(name));
  UBLKD_RETURN_IF_ERROR(
      CheckNewSize(FormatVolumeId(options_.name, name), entry.record, size_bytes));
  if (size_bytes == entry.record.size_bytes) return Observe(entry.record);
  // Of an earlier call that failed and could not be undone.
  UBLKD_RETURN_IF_ERROR(TakeBackGrowth(entry.record));
  UBLKD_RETURN_IF_ERROR(Locate(name).status());

  VolumeRecord grown = entry.record;
  grown.size_bytes = size_bytes;
  ++grown.generation;
  absl::Status status = CheckRoomToGrow(entry.record, grown);
  if (status.ok()) status = GrowFiles(entry.record, grown);
  entry.record = status.ok() ? grown : UndoGrowth(entry.record);
  // Gives back the turn, too.
  Put(name, entry);
  if (!status.ok()) return status;
  return Observe(entry.record);
}

// The record that counts after growth has failed.
VolumeRecord FilePool::UndoGrowth(const VolumeRecord& record) {
  absl::StatusOr<VolumeRecord> kept = ReadRecord(record.name, RecordFile(record.name));
  absl::Status undone = kept.status();
  if (kept.ok()) undone = TakeBackGrowth(*kept);
  if (!undone.ok()) {
    LogError("volume that could not grow is not cut back; the next call or start tries again",
             {{"pool", options_.name},
              {"volume", record.name},
              {"reason", std::string(undone.message())}});
  }
  // The last step may have failed after its rename.
  return kept.ok() ? *std::move(kept) : record;
}

// From now on the room counts as promised, for those who ask later.
uint64_t FilePool::TakeTurnToGrow(absl::string_view name, uint64_t size_bytes) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.find(name)->second;
  entry.growing_to_bytes = size_bytes;
  entry.growing_turn = next_turn_++;
  return entry.growing_turn;
}

absl::Status FilePool::CheckRoomToGrow(const VolumeRecord& record, const VolumeRecord& grown) {
  const uint64_t more_bytes = grown.size_bytes - record.size_bytes;
  return CheckRoom(absl::StrCat(FormatBytes(more_bytes), " more of volume ", record.name),
                   more_bytes, record.provisioning, TakeTurnToGrow(record.name, grown.size_bytes));
}

// The marker tells a start after a kill to cut the data back; renaming it to the record's name is
// the moment at which the volume has its new size.
absl::Status FilePool::GrowFiles(const VolumeRecord& record, const VolumeRecord& grown) {
  const std::string marker = GrowingMarker(record.name);
  UBLKD_RETURN_IF_ERROR(directory_.Write(marker, EncodeVolumeRecord(grown)));
  FailPoint("resize.begun");
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd data,
                         directory_.OpenRegular(DataFile(record.name), O_RDWR));
  const absl::Status done =
      Grow(data.get(), record.size_bytes, grown.size_bytes, record.provisioning);
  if (!done.ok()) {
    return Annotate(
        done, absl::StrCat("cannot grow volume ", FormatVolumeId(options_.name, record.name)));
  }
  FailPoint("resize.data");
  UBLKD_RETURN_IF_ERROR(directory_.Rename(marker, RecordFile(record.name)));
  FailPoint("resize.recorded");
  return absl::OkStatus();
}

absl::Status FilePool::TakeBackGrowth(const VolumeRecord& record) {
  const std::string marker = GrowingMarker(record.name);
  UBLKD_ASSIGN_OR_RETURN(const auto marked, directory_.Look(marker));
  if (!marked.has_value()) return absl::OkStatus();
  const absl::StatusOr<UniqueFd> data = directory_.OpenRegular(DataFile(record.name), O_RDWR);
  // Data that is gone or is something else is not ours to mend; Locate has the words for it.
  if (data.ok()) UBLKD_RETURN_IF_ERROR(CutBack(data->get(), record.size_bytes));
  return directory_.Remove(marker);
}

}  // namespace ublkd::volume
