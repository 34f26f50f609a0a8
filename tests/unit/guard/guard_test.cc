// SPDX-License-Identifier: Apache-2.0
//
// Which devices the guard takes over, and when.
#include "daemon/guard/guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/unit/volume/fake_devices.h"
#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::guard {
namespace {

using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using volume::DeviceRecord;
using volume::FakeDevices;

constexpr char kBoot[] = "this boot";
constexpr pid_t kWaits = -1;

class GuardTest : public testing::Test {
 protected:
  GuardTest()
      : guard_({.records_dir = dir_.File("devices"), .boot_id = kBoot}, kernel_,
               [this] { return time_; }) {
    kernel_.OutliveServers();
  }

  void WriteRecord(uint32_t id, uint32_t fail_after_seconds, const std::string& boot = kBoot,
                   uint64_t generation = 1) {
    std::filesystem::create_directories(dir_.File("devices"));
    DeviceRecord record;
    record.spec.target = volume::NullSpec{FakeDevices::kLeftBytes};
    record.spec.id = id;
    record.boot_id = boot;
    record.generation = generation;
    record.fail_after_seconds = fail_after_seconds;
    dir_.Write("devices/" + std::to_string(id) + ".json", EncodeDeviceRecord(record));
  }
  void Leave(uint32_t id, uint32_t fail_after_seconds) {
    WriteRecord(id, fail_after_seconds);
    kernel_.AddLeft(id);
  }
  void LookAfter(int64_t seconds, Guard::Policy policy = Guard::Policy::kAsRecorded) {
    time_ += absl::Seconds(seconds);
    guard_.Look(policy);
  }

  volume::TempDir dir_;
  FakeDevices kernel_;
  absl::Duration time_ = absl::Hours(5);
  Guard guard_;
};

TEST_F(GuardTest, EachDeviceIsTakenOverWhenItHasWaitedForItsTime) {
  Leave(0, 10);
  Leave(1, 20);
  Leave(2, 0);
  LookAfter(0);
  LookAfter(9);
  EXPECT_EQ(guard_.held(), 0u);
  LookAfter(1);
  EXPECT_THAT(kernel_.kernel(),
              UnorderedElementsAre(Pair(0, getpid()), Pair(1, kWaits), Pair(2, kWaits)));
  LookAfter(10);
  LookAfter(100'000);
  EXPECT_THAT(kernel_.kernel(),
              UnorderedElementsAre(Pair(0, getpid()), Pair(1, getpid()), Pair(2, kWaits)));
  EXPECT_EQ(guard_.held(), 2u);
}

TEST_F(GuardTest, AllAreGivenBackToTheServerThatComesAndWaitAnewForTheNext) {
  Leave(0, 10);
  Leave(1, 20);
  LookAfter(0);
  LookAfter(15);
  EXPECT_EQ(guard_.held(), 1u);
  EXPECT_TRUE(guard_.LetGo());
  EXPECT_THAT(kernel_.kernel(), UnorderedElementsAre(Pair(0, kWaits), Pair(1, kWaits)));
  LookAfter(5);
  LookAfter(9);
  EXPECT_EQ(guard_.held(), 0u) << "what was waited before counts no more";
  LookAfter(1);
  EXPECT_EQ(guard_.held(), 1u);
  EXPECT_THAT(kernel_.removed(), IsEmpty());
}

TEST_F(GuardTest, NowMeansAllOfThemAtOnce) {
  Leave(0, 10);
  Leave(1, 0);
  LookAfter(0, Guard::Policy::kNow);
  EXPECT_EQ(guard_.held(), 2u);
}

TEST_F(GuardTest, WhatIsServedOrNotOursIsLeftAlone) {
  WriteRecord(0, 1);
  kernel_.AddLeft(0, getppid());
  WriteRecord(1, 1, "an earlier boot");
  kernel_.AddLeft(1);
  WriteRecord(2, 1);
  kernel_.AddForeign(2, kWaits);
  kernel_.AddLeft(3);
  WriteRecord(4, 1);
  LookAfter(0, Guard::Policy::kNow);
  LookAfter(100, Guard::Policy::kNow);
  EXPECT_EQ(guard_.held(), 0u);
  EXPECT_THAT(kernel_.kernel(), UnorderedElementsAre(Pair(0, getppid()), Pair(1, kWaits),
                                                     Pair(2, kWaits), Pair(3, kWaits)));
}

TEST_F(GuardTest, TheTimeCountsFromTheLastServer) {
  Leave(0, 10);
  LookAfter(0);
  LookAfter(9);
  // One that was never seen has served it meanwhile.
  WriteRecord(0, 10, kBoot, 2);
  LookAfter(1);
  LookAfter(9);
  EXPECT_EQ(guard_.held(), 0u);
  kernel_.AddLeft(0, getppid());
  LookAfter(1);
  kernel_.AddLeft(0);
  LookAfter(100);
  EXPECT_EQ(guard_.held(), 0u) << "it was served in between";
  LookAfter(10);
  EXPECT_EQ(guard_.held(), 1u);
}

TEST_F(GuardTest, WhatCannotBeTakenOverIsTriedAgain) {
  Leave(0, 1);
  kernel_.FailRecovery(absl::FailedPreconditionError("it is served after all"));
  LookAfter(0);
  LookAfter(1);
  EXPECT_EQ(guard_.held(), 0u);
  kernel_.FailRecovery(absl::OkStatus());
  LookAfter(0);
  EXPECT_EQ(guard_.held(), 1u);
}

TEST_F(GuardTest, ADeviceThatIsQuiescedOnceMoreWaitsOnceMore) {
  Leave(0, 10);
  LookAfter(0);
  LookAfter(10);
  ASSERT_EQ(guard_.held(), 1u);
  kernel_.AddLeft(0);
  LookAfter(0);
  LookAfter(9);
  EXPECT_EQ(guard_.held(), 0u);
  LookAfter(1);
  EXPECT_EQ(guard_.held(), 1u);
}

TEST_F(GuardTest, RecordsThatCannotBeReadAndAFolderThatIsNotThereAreNoEnd) {
  LookAfter(0);
  Leave(0, 1);
  dir_.Write("devices/1.json", "{");
  kernel_.AddLeft(1);
  LookAfter(0, Guard::Policy::kNow);
  EXPECT_EQ(guard_.held(), 1u);
  EXPECT_EQ(dir_.Read("devices/1.json"), "{");
}

TEST_F(GuardTest, ALockedFolderIsReadAllTheSame) {
  Leave(0, 1);
  const auto owner = volume::DeviceRecords::Open(dir_.File("devices"));
  ASSERT_THAT(owner, volume::IsOk());
  LookAfter(0, Guard::Policy::kNow);
  EXPECT_EQ(guard_.held(), 1u);
}

TEST_F(GuardTest, TellsWhetherADeviceOfOursIsInUse) {
  EXPECT_FALSE(guard_.AnyInUse());
  Leave(0, 0);
  kernel_.AddLeft(7);
  kernel_.SetInUse(7, true);
  EXPECT_FALSE(guard_.AnyInUse());
  kernel_.SetInUse(0, true);
  EXPECT_TRUE(guard_.AnyInUse());
  kernel_.SetInUse(0, false);
  EXPECT_FALSE(guard_.AnyInUse());
  // Maybe of a newer ublkd.
  dir_.Write("devices/7.json", "{");
  EXPECT_TRUE(guard_.AnyInUse());
}

TEST_F(GuardTest, AtItsEndAllWaitAgain) {
  Leave(0, 1);
  {
    Guard other({.records_dir = dir_.File("devices"), .boot_id = kBoot}, kernel_,
                [this] { return time_; });
    other.Look(Guard::Policy::kNow);
    EXPECT_THAT(kernel_.kernel(), UnorderedElementsAre(Pair(0, getpid())));
  }
  EXPECT_THAT(kernel_.kernel(), UnorderedElementsAre(Pair(0, kWaits)));
  EXPECT_THAT(kernel_.removed(), IsEmpty());
}

}  // namespace
}  // namespace ublkd::guard
