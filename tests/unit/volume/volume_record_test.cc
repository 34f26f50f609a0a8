// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/volume_record.h"

#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "tests/unit/volume/matchers.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;

VolumeRecord Sample() {
  VolumeRecord record;
  record.name = "pvc-1";
  record.size_bytes = 1 << 20;
  record.logical_block_bytes = 4096;
  record.provisioning = Provisioning::kThick;
  record.format.state = Format::State::kFormatting;
  record.format.fs_type = "ext4";
  record.format.fs_uuid = "01234567-89ab-cdef-0123-456789abcdef";
  record.format.changed_at = absl::FromUnixMicros(1'700'000'000'123'456);
  record.labels = {{"a", "1"}, {"quote", "\"\n\\ ü"}};
  record.created_at = absl::FromUnixMicros(1'600'000'000'000'001);
  record.generation = 7;
  return record;
}

TEST(VolumeRecord, ComesBackAsItWasWritten) {
  const VolumeRecord written = Sample();
  const auto read = DecodeVolumeRecord(EncodeVolumeRecord(written));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(EncodeVolumeRecord(*read), EncodeVolumeRecord(written));
  EXPECT_EQ(read->labels, written.labels);
  EXPECT_EQ(read->format.changed_at, written.format.changed_at);
  EXPECT_EQ(read->created_at, written.created_at);
  EXPECT_EQ(read->generation, 7u);
}

// The bytes of version 1 as they lie on the disks of nodes: this text must be read for ever as long
// as version 2 is the newest.
TEST(VolumeRecord, Version1IsRead) {
  const auto read = DecodeVolumeRecord(R"({
    "format": "ublkd-volume", "version": 1, "name": "a", "size_bytes": 8192,
    "logical_block_bytes": 512, "provisioning": "thin",
    "filesystem": {"state": "never", "fs_type": "", "fs_uuid": "",
                   "changed_at": "2026-01-31T12:00:00+00:00"},
    "labels": {"k": "v"}, "created_at": "2026-01-31T12:00:00.5+00:00", "generation": 1})");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->size_bytes, 8192u);
  EXPECT_EQ(read->format.state, Format::State::kNever);
}

TEST(VolumeRecord, FromTheFutureIsRefused) {
  const std::string text =
      absl::StrReplaceAll(EncodeVolumeRecord(Sample()), {{"\"version\": 1", "\"version\": 2"}});
  EXPECT_THAT(DecodeVolumeRecord(text), Refused(StatusCode::kFailedPrecondition, "newer"));
}

TEST(VolumeRecord, DamageIsRefusedAndNeverCrashes) {
  const std::string good = EncodeVolumeRecord(Sample());
  for (size_t length = 0; length + 2 < good.size(); ++length) {
    EXPECT_FALSE(DecodeVolumeRecord(good.substr(0, length)).ok()) << "cut after " << length;
  }
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x15);
    (void)DecodeVolumeRecord(bad);
  }
  for (const std::string text : {"", "null", "[]", "{}", "\"x\"", "{\"format\":1}", "\xff\xfe"}) {
    EXPECT_THAT(DecodeVolumeRecord(text), Refused(StatusCode::kDataLoss, ""));
  }
  EXPECT_THAT(DecodeVolumeRecord(
                  absl::StrReplaceAll(good, {{"\"name\": \"pvc-1\"", "\"name\": \"../x\""}})),
              Refused(StatusCode::kDataLoss, "name"));
  EXPECT_THAT(DecodeVolumeRecord(absl::StrReplaceAll(good, {{"1048576", "-1"}})),
              Refused(StatusCode::kDataLoss, "size_bytes"));
}

}  // namespace
}  // namespace ublkd::volume
