// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/volume.h"

#include <gtest/gtest.h>

#include "tests/unit/volume/matchers.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;

constexpr uint64_t kMiB = 1 << 20;
constexpr char kUuid[] = "01234567-89ab-cdef-0123-456789abcdef";

VolumeRequest Request(const std::string& name, uint64_t size_bytes) {
  VolumeRequest request;
  request.name = name;
  request.size_bytes = size_bytes;
  return request;
}

TEST(VolumeName, CannotLeaveItsFolder) {
  for (const std::string name :
       {"", ".", "..", ".hidden", "a/b", "/a", "a b", "a\nb", "ä", "a\\b"}) {
    EXPECT_THAT(CheckName(name, kMaxIdBytes, "name"), Refused(StatusCode::kInvalidArgument, "name"))
        << "name \"" << name << "\" must be refused";
  }
  EXPECT_THAT(CheckName(std::string(2, '\0'), kMaxIdBytes, "name"),
              Refused(StatusCode::kInvalidArgument, "name"));
  EXPECT_THAT(CheckName(std::string(kMaxIdBytes + 1, 'a'), kMaxIdBytes, "name"),
              Refused(StatusCode::kInvalidArgument, "name"));
  EXPECT_THAT(CheckName("pvc-1.2_A..json", kMaxIdBytes, "name"), IsOk());
}

TEST(VolumeId, IsPoolAndName) {
  const auto parts = ParseVolumeId("fast/pvc-1", "id");
  ASSERT_THAT(parts, IsOk());
  EXPECT_EQ(parts->pool, "fast");
  EXPECT_EQ(parts->name, "pvc-1");
  for (const std::string id : {"", "fast", "/a", "fast/", "fast/a/b", "../a", "fast/..", "a/.b"}) {
    EXPECT_THAT(ParseVolumeId(id, "id"), Refused(StatusCode::kInvalidArgument, "id"))
        << "id \"" << id << "\" must be refused";
  }
}

TEST(VolumeRequest, SizeMustBeAPositiveMultipleOfTheBlock) {
  EXPECT_THAT(CheckRequest("p", Request("a", 0)),
              Refused(StatusCode::kInvalidArgument, "size_bytes"));
  EXPECT_THAT(CheckRequest("p", Request("a", 1000)),
              Refused(StatusCode::kInvalidArgument, "size_bytes"));
  EXPECT_THAT(CheckRequest("p", Request("a", uint64_t{1} << 63)),
              Refused(StatusCode::kInvalidArgument, "size_bytes"));
  VolumeRequest request = Request("a", 512);
  EXPECT_THAT(CheckRequest("p", request), IsOk());
  EXPECT_EQ(ChooseBlockBytes(request), 512u);
  EXPECT_EQ(ChooseBlockBytes(Request("a", kMiB)), 4096u);
  request.logical_block_bytes = 4096;
  EXPECT_THAT(CheckRequest("p", request), Refused(StatusCode::kInvalidArgument, "size_bytes"));
  request.logical_block_bytes = 1024;
  EXPECT_THAT(CheckRequest("p", request),
              Refused(StatusCode::kInvalidArgument, "logical_block_bytes"));
}

TEST(VolumeRequest, IdAndLabelsHaveLimits) {
  EXPECT_THAT(CheckRequest("pool", Request(std::string(kMaxIdBytes, 'a'), kMiB)),
              Refused(StatusCode::kInvalidArgument, "name"));
  VolumeRequest request = Request("a", kMiB);
  request.labels["key"] = std::string(kMaxLabelsBytes, 'x');
  EXPECT_THAT(CheckRequest("p", request), Refused(StatusCode::kInvalidArgument, "labels"));
  request.labels = {{"", "x"}};
  EXPECT_THAT(CheckRequest("p", request), Refused(StatusCode::kInvalidArgument, "labels"));
}

TEST(VolumeRequest, ADifferenceIsNamed) {
  VolumeRecord record;
  record.name = "a";
  record.size_bytes = kMiB;
  record.logical_block_bytes = 512;
  VolumeRequest request = Request("a", kMiB);
  EXPECT_THAT(CheckSame("p", record, request), IsOk()) << "what is left open fits anything";
  request.logical_block_bytes = 4096;
  EXPECT_THAT(CheckSame("p", record, request),
              Refused(StatusCode::kAlreadyExists, "logical_block_bytes"));
  request.logical_block_bytes = 512;
  request.provisioning = Provisioning::kThick;
  EXPECT_THAT(CheckSame("p", record, request), Refused(StatusCode::kAlreadyExists, "provisioning"));
  EXPECT_THAT(CheckSame("p", record, Request("a", 2 * kMiB)),
              Refused(StatusCode::kAlreadyExists, "size_bytes"));
}

Format MakeFormat(Format::State state, const std::string& fs_type, const std::string& fs_uuid) {
  return {state, fs_type, fs_uuid, absl::UnixEpoch()};
}

TEST(VolumeFormat, WhatMayHoldDataIsNeverOpenToFormattingAgain) {
  const Format formatting = MakeFormat(Format::State::kFormatting, "ext4", kUuid);
  const Format formatted = MakeFormat(Format::State::kFormatted, "ext4", kUuid);
  const Format never = MakeFormat(Format::State::kNever, "", "");
  const Format unknown;
  for (const Format& now : {formatted, unknown}) {
    for (const Format& wanted : {formatting, never}) {
      EXPECT_THAT(CheckFormatChange("p/a", now, now.state, wanted),
                  Refused(StatusCode::kFailedPrecondition, "may hold data"));
    }
    EXPECT_THAT(CheckFormatChange("p/a", now, now.state, formatted), IsOk());
  }
  EXPECT_THAT(CheckFormatChange("p/a", never, never.state, formatting), IsOk());
  EXPECT_THAT(CheckFormatChange("p/a", formatting, formatting.state, formatting), IsOk());
  EXPECT_THAT(CheckFormatChange("p/a", formatting, formatting.state, never), IsOk());
}

TEST(VolumeFormat, AMalformedOneNamesItsField) {
  const Format never = MakeFormat(Format::State::kNever, "", "");
  const auto check = [&](const Format& wanted) {
    return CheckFormatChange("p/a", never, Format::State::kNever, wanted);
  };
  EXPECT_THAT(check({}), Refused(StatusCode::kInvalidArgument, "format.state"));
  EXPECT_THAT(check(MakeFormat(Format::State::kFormatting, "", kUuid)),
              Refused(StatusCode::kInvalidArgument, "format.fs_type"));
  EXPECT_THAT(check(MakeFormat(Format::State::kNever, "ext4", "")),
              Refused(StatusCode::kInvalidArgument, "format.fs_type"));
  EXPECT_THAT(check(MakeFormat(Format::State::kFormatting, "a/b", kUuid)),
              Refused(StatusCode::kInvalidArgument, "format.fs_type"));
  EXPECT_THAT(check(MakeFormat(Format::State::kFormatted, "ext4", "not a uuid")),
              Refused(StatusCode::kInvalidArgument, "format.fs_uuid"));
  EXPECT_THAT(check(MakeFormat(Format::State::kFormatted, "block", kUuid)),
              Refused(StatusCode::kInvalidArgument, "format.fs_uuid"));
  EXPECT_THAT(check(MakeFormat(Format::State::kFormatted, "block", "")), IsOk());
}

}  // namespace
}  // namespace ublkd::volume
