// SPDX-License-Identifier: Apache-2.0
#include "daemon/uninstall/cluster_volumes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "daemon/uninstall/kube_api.h"

namespace ublkd::uninstall {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kDriver[] = "csi.ublkd.dev";
constexpr char kFirst[] = "/api/v1/persistentvolumes?limit=500";

std::string Volume(const std::string& name, const std::string& driver = kDriver) {
  return absl::StrCat(R"({"metadata":{"name":")", name, R"("},"spec":{"csi":{"driver":")", driver,
                      R"("}}})");
}

std::string List(const std::string& items, const std::string& next = "") {
  return absl::StrCat(R"({"kind":"PersistentVolumeList","metadata":{"continue":")", next,
                      R"("},"items":[)", items, "]}");
}

std::vector<std::string> Names(const std::vector<ClusterVolume>& volumes) {
  std::vector<std::string> names;
  for (const ClusterVolume& volume : volumes) names.push_back(volume.name);
  return names;
}

TEST(VolumePage, HasTheVolumesOfOneDriver) {
  const auto page = ParseVolumePage(
      List(absl::StrCat(Volume("a"), ",", Volume("b", "other"), R"(,{"metadata":{"name":"c"},)",
                        R"("spec":{"csi":{"driver":"csi.ublkd.dev"},)",
                        R"("claimRef":{"namespace":"shop","name":"db"}}},{"spec":{"nfs":{}}})"),
           "more"),
      kDriver);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(Names(page->volumes), ElementsAre("a", "c"));
  EXPECT_EQ(page->volumes[0].claim, "");
  EXPECT_EQ(page->volumes[1].claim, "shop/db");
  EXPECT_EQ(page->next, "more");
  EXPECT_TRUE(
      ParseVolumePage(R"({"kind":"PersistentVolumeList","metadata":{},"items":null})", kDriver)
          .ok());
}

TEST(VolumePage, WhatIsNoListIsAnError) {
  for (const char* text :
       {"", "null", "[]", "{}", "<html>", R"({"kind":"Status"})", R"({"kind":7,"items":[]})",
        R"({"kind":"PersistentVolumeList","items":7})", R"({"kind":"PersistentVolumeList","ite)"}) {
    EXPECT_TRUE(absl::IsDataLoss(ParseVolumePage(text, kDriver).status())) << text;
  }
  for (const char* items : {"7", "null", R"({"spec":7})", R"({"spec":{"csi":[]}})",
                            R"({"metadata":[],"spec":{"csi":{"driver":3}}})"}) {
    const auto page = ParseVolumePage(List(items), kDriver);
    ASSERT_TRUE(page.ok()) << items;
    EXPECT_TRUE(page->volumes.empty()) << items;
  }
}

TEST(VolumePage, OnlyNamesArePrinted) {
  const auto page = ParseVolumePage(List(Volume("a\\u001b[2Jb\\nc d")), kDriver);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(Names(page->volumes), ElementsAre("a??2Jb?c?d"));
}

TEST(ClusterVolumes, AreListedPageByPage) {
  std::map<std::string, std::string, std::less<>> pages = {
      {kFirst, List(Volume("a"), "x+/=")},
      {absl::StrCat(kFirst, "&continue=x%2B%2F%3D"), List(Volume("b", "other"), "y")},
      {absl::StrCat(kFirst, "&continue=y"), List(Volume("c"))}};
  const auto volumes = ListVolumes(
      [&](absl::string_view path) -> absl::StatusOr<std::string> {
        return pages.at(std::string(path));
      },
      kDriver);
  ASSERT_TRUE(volumes.ok()) << volumes.status();
  EXPECT_THAT(Names(*volumes), ElementsAre("a", "c"));
}

TEST(ClusterVolumes, AListThatIsGoneIsBegunAgain) {
  int calls = 0;
  const GetPath get = [&calls](absl::string_view path) -> absl::StatusOr<std::string> {
    ++calls;
    if (path == kFirst) return List(Volume(absl::StrCat("a", calls)), "more");
    if (calls < 4) return absl::AbortedError("gone");
    return List(Volume("b"));
  };
  const auto volumes = ListVolumes(get, kDriver);
  ASSERT_TRUE(volumes.ok()) << volumes.status();
  EXPECT_THAT(Names(*volumes), ElementsAre("a3", "b"));
  const auto never = ListVolumes(
      [](absl::string_view) -> absl::StatusOr<std::string> { return absl::AbortedError("gone"); },
      kDriver);
  EXPECT_TRUE(absl::IsAborted(never.status())) << never.status();
}

TEST(ClusterVolumes, AListThatDoesNotEndIsAnError) {
  const auto volumes = ListVolumes(
      [](absl::string_view) -> absl::StatusOr<std::string> { return List("", "again"); }, kDriver);
  EXPECT_TRUE(absl::IsUnavailable(volumes.status())) << volumes.status();
}

TEST(ClusterVolumes, AreDescribedInOneSentence) {
  EXPECT_THAT(DescribeVolumesLeft({{.name = "a", .claim = "shop/db"}}, kDriver),
              HasSubstr("1 volume of csi.ublkd.dev is left: a (claim shop/db); without ublkd"));
  std::vector<ClusterVolume> many(12);
  for (size_t i = 0; i < many.size(); ++i) many[i].name = absl::StrCat("v", i);
  const std::string text = DescribeVolumesLeft(many, kDriver);
  EXPECT_THAT(text, HasSubstr("12 volumes of csi.ublkd.dev are left: v0, v1"));
  EXPECT_THAT(text, HasSubstr("v9 and 2 more; "));
  EXPECT_THAT(text, Not(HasSubstr("v10")));
}

TEST(UrlOfApi, IsMadeOfWhatAPodKnows) {
  EXPECT_EQ(*UrlOfApi("10.0.0.1", "443"), "https://10.0.0.1:443");
  EXPECT_EQ(*UrlOfApi("fd00::1", "443"), "https://[fd00::1]:443");
  EXPECT_TRUE(absl::IsInvalidArgument(UrlOfApi("", "443").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(UrlOfApi("10.0.0.1", "").status()));
}

}  // namespace
}  // namespace ublkd::uninstall
