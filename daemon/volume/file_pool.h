// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "daemon/volume/owned_directory.h"
#include "daemon/volume/pool.h"

namespace ublkd::volume {

struct FilePoolOptions {
  std::string name;
  /// Absolute path of a folder that is there.
  std::string path;
  /// How much may be promised to volumes for each free byte; at least 1.
  double overcommit = 1.0;
};

/// Volumes that are files in a folder. README.md has the layout, and what a kill at each step
/// leaves behind.
class FilePool : public Pool {
 public:
  /// Reads the folder and finishes what a killed ublkd left half-done. A record that cannot be read
  /// is logged, its volume is refused and its files are left as they are.
  static absl::StatusOr<std::unique_ptr<FilePool>> Open(const FilePoolOptions& options);

  const std::string& name() const override { return options_.name; }
  absl::string_view type() const override { return "file"; }
  const std::string& path() const override { return directory_.path(); }

  absl::StatusOr<Volume> Create(const VolumeRequest& request) override;
  absl::Status Delete(absl::string_view name) override;
  absl::StatusOr<Volume> Get(absl::string_view name) override;
  absl::StatusOr<VolumeRecord> Describe(absl::string_view name) const override;
  std::vector<std::string> Names() const override;
  absl::StatusOr<Volume> SetFormat(absl::string_view name, Format::State expected,
                                   const Format& format) override;
  absl::StatusOr<Volume> Resize(absl::string_view name, uint64_t size_bytes) override;
  absl::StatusOr<PoolCapacity> Capacity() const override;
  absl::StatusOr<std::string> Locate(absl::string_view name) const override;
  bool Contains(absl::string_view path) const override;

 private:
  enum class State {
    /// Its files are being made; or they could not be removed after that failed.
    kCreating,
    kReady,
    /// Its record is gone; its data may still be there.
    kDeleting,
    /// The record cannot be read: `problem` says why.
    kUnreadable,
  };
  struct Entry {
    State state = State::kCreating;
    VolumeRecord record;
    absl::Status problem;
    /// The order in which volumes asked for room.
    uint64_t turn = 0;
    /// While it grows: the size that it is to get, and its turn for the room.
    uint64_t growing_to_bytes = 0;
    uint64_t growing_turn = 0;
  };

  FilePool(FilePoolOptions options, OwnedDirectory directory);

  // Start.
  absl::Status Load();
  void LoadFile(const std::string& file);
  void LoadRecord(const std::string& volume);
  void FinishInterrupted(const std::string& volume, const std::string& marker, State state);
  void FinishGrowth(const std::string& volume);
  void Refuse(const std::string& volume, const absl::Status& why);
  absl::StatusOr<VolumeRecord> ReadRecord(absl::string_view volume, const std::string& file) const;

  // Creation and deletion.
  absl::StatusOr<Entry> Begin(const VolumeRequest& request);
  absl::Status CheckRoom(absl::string_view what, uint64_t bytes, Provisioning provisioning,
                         uint64_t turn) const;
  absl::Status MakeFiles(const VolumeRecord& record);
  absl::Status MakeData(const VolumeRecord& record) const;
  absl::Status RemoveFiles(absl::string_view name, absl::string_view marker);
  void UndoCreation(absl::string_view name);
  void Forget(absl::string_view name);

  // Growth (file_pool_resize.cc).
  uint64_t TakeTurnToGrow(absl::string_view name, uint64_t size_bytes);
  absl::Status CheckRoomToGrow(const VolumeRecord& record, const VolumeRecord& grown);
  absl::Status GrowFiles(const VolumeRecord& record, const VolumeRecord& grown);
  VolumeRecord UndoGrowth(const VolumeRecord& record);
  absl::Status TakeBackGrowth(const VolumeRecord& record);

  absl::StatusOr<Entry> Find(absl::string_view name) const;
  void Put(absl::string_view name, Entry entry);
  absl::Status Refusal(absl::string_view name, const Entry* entry) const;
  Volume Observe(const VolumeRecord& record) const;
  Content LookForData(const VolumeRecord& record) const;
  /// Bytes promised to volumes and not yet taken, of those that asked before `turn`.
  uint64_t PromisedBytes(uint64_t turn) const;

  const FilePoolOptions options_;
  const OwnedDirectory directory_;
  /// Whether the filesystem tells holes from data, for files made in either way.
  bool tells_thin_ = false;
  bool tells_thick_ = false;

  mutable std::mutex mutex_;
  /// By volume name. Never held over a system call.
  std::map<std::string, Entry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_turn_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace ublkd::volume
