// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>

namespace ublkd {
namespace {

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "ublkd-file-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

TEST_F(FileTest, WriteFileAtomicallyReplacesAndLeavesNothingElse) {
  const std::string path = folder_ + "/record";
  ASSERT_TRUE(WriteFileAtomically(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomically(path, "two").ok());
  EXPECT_EQ(*ReadFile(path), "two");
  EXPECT_EQ(*ListDirectory(folder_), std::vector<std::string>{"record"});
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(FileTest, AFailedWriteKeepsTheOldContentAndLeavesNothing) {
  const std::string path = folder_ + "/folder-in-the-way";
  ASSERT_TRUE(MakeDirectories(path + "/sub").ok());
  EXPECT_FALSE(WriteFileAtomically(path, "x").ok());
  EXPECT_EQ(*ListDirectory(folder_), std::vector<std::string>{"folder-in-the-way"});
}

TEST_F(FileTest, WriteDoesNotFollowALinkPlantedAtTheTemporaryName) {
  const std::string victim = folder_ + "/victim";
  ASSERT_TRUE(WriteFileAtomically(victim, "precious").ok());
  std::filesystem::create_symlink(victim, folder_ + "/record.new");
  EXPECT_FALSE(WriteFileAtomically(folder_ + "/record", "x").ok());
  EXPECT_EQ(*ReadFile(victim), "precious");
}

TEST_F(FileTest, ErrorsNameThePath) {
  const auto content = ReadFile(folder_ + "/absent");
  EXPECT_EQ(content.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(content.status().message().find("/absent"), absl::string_view::npos);
  EXPECT_EQ(ListDirectory(folder_ + "/absent").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FileTest, RemoveFileIsRepeatable) {
  const std::string path = folder_ + "/record";
  ASSERT_TRUE(WriteFileAtomically(path, "x").ok());
  EXPECT_TRUE(RemoveFile(path).ok());
  EXPECT_TRUE(RemoveFile(path).ok());
}

TEST_F(FileTest, MakeDirectoriesMakesParentsAndIsRepeatable) {
  EXPECT_TRUE(MakeDirectories(folder_ + "/a/b/c").ok());
  EXPECT_TRUE(MakeDirectories(folder_ + "/a/b/c").ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder_ + "/a/b/c"));
}

TEST(DeviceNumber, IsTwoNumbers) {
  EXPECT_EQ(ParseDeviceNumber("259:17\n"), makedev(259, 17));
  for (const char* text : {"", "8", "8:", ":1", "8:1:2", "8:x", "-8:1"}) {
    EXPECT_EQ(ParseDeviceNumber(text), std::nullopt) << text;
  }
}

TEST_F(FileTest, UniqueFdClosesOnce) {
  auto opened = OpenFile(folder_ + "/x", O_RDWR | O_CREAT);
  ASSERT_TRUE(opened.ok());
  const int number = opened->get();
  {
    const UniqueFd owner = std::move(*opened);
    EXPECT_EQ(owner.get(), number);
    EXPECT_EQ(fcntl(number, F_GETFD), FD_CLOEXEC);
  }
  EXPECT_EQ(fcntl(number, F_GETFD), -1);
}

}  // namespace
}  // namespace ublkd
