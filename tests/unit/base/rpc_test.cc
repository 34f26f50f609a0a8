// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/rpc.h"

#include <grpcpp/generic/async_generic_service.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>

#include "daemon/base/file.h"

namespace ublkd {
namespace {

class RpcServerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "ublkd-rpc-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/s.sock";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<std::unique_ptr<RpcServer>> Start(const std::string& path) {
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(&service_);
    return RpcServer::Start(builder, path);
  }

  grpc::CallbackGenericService service_;
  std::string folder_;
  std::string path_;
};

TEST_F(RpcServerTest, TheSocketIsPrivateAndGoesWithTheServer) {
  auto server = Start(path_);
  ASSERT_TRUE(server.ok()) << server.status();
  struct stat status;
  ASSERT_EQ(lstat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_TRUE(ConnectToUnixSocket(path_)->WaitForConnected(std::chrono::system_clock::now() +
                                                           std::chrono::seconds(10)));
  server->reset();
  EXPECT_TRUE(ListDirectory(folder_)->empty()) << "something is left beside the socket";
}

TEST_F(RpcServerTest, ASocketInUseIsRefusedAndKeepsServing) {
  auto first = Start(path_);
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = Start(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists) << second.status();
  EXPECT_TRUE(ConnectToUnixSocket(path_)->WaitForConnected(std::chrono::system_clock::now() +
                                                           std::chrono::seconds(10)));
}

TEST_F(RpcServerTest, AStaleSocketIsReplaced) {
  {
    const UniqueFd stale(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    ASSERT_EQ(bind(stale.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  EXPECT_TRUE(Start(path_).ok());
}

TEST_F(RpcServerTest, OtherFilesAreNotTouched) {
  ASSERT_TRUE(WriteFileAtomically(path_, "precious").ok());
  EXPECT_EQ(Start(path_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*ReadFile(path_), "precious");
}

TEST_F(RpcServerTest, BadPathsAreRefused) {
  EXPECT_EQ(Start("relative.sock").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Start("/" + std::string(200, 'x')).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Start(folder_ + "/absent/s.sock").status().code(), absl::StatusCode::kUnavailable);
}

TEST(RpcStatus, ConversionKeepsCodeAndMessage) {
  const grpc::Status status = ToGrpc(absl::NotFoundError("gone"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(FromGrpc(status), absl::NotFoundError("gone"));
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_EQ(ToGrpc(absl::InternalError("")).error_message(), "INTERNAL");
}

}  // namespace
}  // namespace ublkd
