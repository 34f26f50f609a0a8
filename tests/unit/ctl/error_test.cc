// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <grpcpp/server_posix.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <thread>

#include "absl/strings/str_join.h"
#include "daemon/base/file.h"
#include "tests/unit/ctl/canned_server.h"

namespace ublkd::ctl {
namespace {

using testing::HasSubstr;

constexpr int kRefused = 1;
constexpr int kUsage = 2;
constexpr int kUnreachable = 3;

class CtlError : public CtlTest {
 protected:
  // Runs ublkctl and expects nothing on stdout but `exit_code` and one "ublkctl: ..." on stderr.
  std::string Fail(int exit_code, const std::vector<std::string>& arguments) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, testing::StartsWith("ublkctl: "));
    return result.err;
  }
};

TEST_F(CtlError, ARefusalIsTheSentenceOfTheServerAndExitCodeOne) {
  for (const grpc::StatusCode code :
       {grpc::StatusCode::INVALID_ARGUMENT, grpc::StatusCode::NOT_FOUND,
        grpc::StatusCode::ALREADY_EXISTS, grpc::StatusCode::PERMISSION_DENIED,
        grpc::StatusCode::FAILED_PRECONDITION, grpc::StatusCode::RESOURCE_EXHAUSTED,
        grpc::StatusCode::ABORTED, grpc::StatusCode::UNAVAILABLE,
        grpc::StatusCode::DEADLINE_EXCEEDED, grpc::StatusCode::INTERNAL}) {
    state_.refusal = grpc::Status(code, "volume fast/db: it sleeps; wake it");
    EXPECT_EQ(Fail(kRefused, {"device", "create", "--volume", "fast/db"}),
              "ublkctl: volume fast/db: it sleeps; wake it\n")
        << "status code " << code;
    EXPECT_EQ(Fail(kRefused, {"device", "list"}), "ublkctl: volume fast/db: it sleeps; wake it\n");
  }
}

TEST_F(CtlError, AServerThatIsTooOldIsNamed) {
  state_.refusal = grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "");
  EXPECT_THAT(Fail(kRefused, {"info"}), HasSubstr("older than ublkctl"));
}

TEST_F(CtlError, ARefusalWithoutWordsNamesItsCode) {
  state_.refusal = grpc::Status(grpc::StatusCode::INTERNAL, "");
  EXPECT_THAT(Fail(kRefused, {"info"}), HasSubstr("INTERNAL"));
}

TEST_F(CtlError, ShowingWhatIsNotThereIsRefused) {
  EXPECT_EQ(Fail(kRefused, {"device", "show", "99"}),
            "ublkctl: there is no device 99; look with a list\n");
  EXPECT_EQ(Fail(kRefused, {"volume", "show", "fast/none"}),
            "ublkctl: there is no volume fast/none; look with a list\n");
}

TEST_F(CtlError, DeletingSeveralReportsEachAndGoesOn) {
  const Result result = Run({"volume", "delete", "bulk/archive", "fast/db", "fast/log"});
  EXPECT_EQ(result.exit_code, kRefused);
  EXPECT_EQ(result.err, "ublkctl: volume fast/db is attached; detach it first\n");
  EXPECT_EQ(result.out,
            "volume bulk/archive is deleted with its data (1 TiB)\n"
            "volume fast/log is deleted with its data (512 MiB)\n");
}

TEST_F(CtlError, NoServerTellsWhatWhyAndWhatToDo) {
  const std::string missing = folder_ + "/missing.sock";
  EXPECT_EQ(Fail(kUnreachable, {"device", "list", "--socket", missing}),
            "ublkctl: cannot reach ublkd on " + missing +
                ": No such file or directory; start ublkd, or name its socket with --socket or "
                "UBLKD_SOCKET\n");
}

TEST_F(CtlError, AServerThatHasEndedIsToldFromOneThatNeverWas) {
  const std::string stale = folder_ + "/stale.sock";
  // A second name for the socket outlives the server.
  std::filesystem::create_hard_link(socket(), stale);
  server_.reset();
  EXPECT_THAT(
      Fail(kUnreachable, {"device", "list", "--socket", stale}),
      HasSubstr(": Connection refused; ublkd has ended and left the socket behind; start ublkd"));
}

TEST_F(CtlError, AFileThatIsNoSocketIsNamed) {
  EXPECT_THAT(Fail(kUnreachable, {"info", "--socket", "/dev/null"}),
              HasSubstr("cannot reach ublkd on /dev/null: "));
}

TEST_F(CtlError, ASilentServerEndsWithTheTimeout) {
  state_.hang = true;
  const std::string message = Fail(kUnreachable, {"device", "list", "--timeout", "200ms"});
  EXPECT_THAT(message, HasSubstr("no answer from ublkd on " + socket() + " within 200ms"));
  EXPECT_THAT(message, HasSubstr("--timeout"));
}

TEST_F(CtlError, AServerThatDiesDuringTheCallIsUnreachable) {
  state_.hang = true;
  std::thread killer([this] {
    // The call is running once the request is seen.
    while (state_.list_volumes_begun == 0) std::this_thread::yield();
    server_->Shutdown(std::chrono::milliseconds(0));
  });
  const std::string message = Fail(kUnreachable, {"volume", "list", "--timeout", "20s"});
  killer.join();
  EXPECT_THAT(message, HasSubstr("lost ublkd on " + socket()));
}

// A socket that listens on `path`.
UniqueFd ListenOn(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof(address.sun_path) - 1));
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(listener.get(), SOMAXCONN), 0);
  return listener;
}

UniqueFd Accept(const UniqueFd& listener) {
  return UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

TEST_F(CtlError, AServerThatHangsUpIsUnreachable) {
  const std::string path = folder_ + "/rude.sock";
  const UniqueFd listener = ListenOn(path);
  std::thread hanger_up([&listener] {
    while (Accept(listener).valid()) continue;
  });
  EXPECT_THAT(Fail(kUnreachable, {"device", "list", "--socket", path}),
              HasSubstr("lost ublkd on " + path));
  shutdown(listener.get(), SHUT_RDWR);
  hanger_up.join();
}

TEST_F(CtlError, AServerOnABusyMachineIsWaitedFor) {
  // Longer than any pause between attempts to connect, and well within --timeout.
  constexpr auto kSlowness = std::chrono::milliseconds(700);
  CannedDevices services(state_);
  grpc::ServerBuilder builder;
  builder.RegisterService(&services);
  const std::unique_ptr<grpc::Server> slow = builder.BuildAndStart();
  const std::string path = folder_ + "/slow.sock";
  const UniqueFd listener = ListenOn(path);
  std::thread acceptor([&] {
    while (true) {
      UniqueFd connection = Accept(listener);
      if (!connection.valid()) break;
      std::this_thread::sleep_for(kSlowness);  // the fault that is injected
      grpc::AddInsecureChannelFromFd(slow.get(), connection.Release());
    }
  });
  const Result result = Run({"device", "list", "--socket", path});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  shutdown(listener.get(), SHUT_RDWR);
  acceptor.join();
  slow->Shutdown();
}

TEST_F(CtlError, AnAnswerThatCannotBeWrittenIsAFailure) {
  const Result result = Run({"device", "list"}, Stdout::kFull);
  EXPECT_EQ(result.exit_code, kRefused);
  EXPECT_EQ(result.err, "ublkctl: cannot write the answer: stdout is closed or full\n");
}

struct Mistake {
  std::vector<std::string> arguments;
  std::string sentence;
  std::string help;

  /// Part of the test's name; the words that matter come first.
  friend void PrintTo(const Mistake& mistake, std::ostream* out) {
    constexpr size_t kNameBytes = 60;
    *out << absl::StrJoin(mistake.arguments, " ").substr(0, kNameBytes);
  }
};

class CtlUsage : public CtlError, public testing::WithParamInterface<Mistake> {};

TEST_P(CtlUsage, NamesTheMistakeAndSendsNothing) {
  const Mistake& mistake = GetParam();
  const std::string message = Fail(kUsage, mistake.arguments);
  EXPECT_THAT(message, HasSubstr(mistake.sentence));
  const std::string hint = mistake.help.empty() ? "" : "\nTry `" + mistake.help + " --help`.\n";
  EXPECT_THAT(message, HasSubstr(hint));
  EXPECT_FALSE(state_.create_device.has_value());
  EXPECT_FALSE(state_.set_limits.has_value());
  EXPECT_FALSE(state_.create_volume.has_value());
  EXPECT_FALSE(state_.resize_device.has_value());
  EXPECT_FALSE(state_.resize_volume.has_value());
  EXPECT_TRUE(state_.deleted_devices.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Mistakes, CtlUsage,
    testing::Values(
        Mistake{
            {"devise", "list"},
            "unknown command \"devise\": the commands are device, volume, pool, info, completion",
            "ublkctl"},
        Mistake{
            {"device", "make"},
            "unknown command \"make\": the commands are create, list, show, limit, resize, delete",
            "ublkctl device"},
        Mistake{{"device", "list", "volume", "list"},
                "unexpected argument \"volume\"",
                "ublkctl device list"},
        Mistake{{"device", "list", "--colour"},
                "unknown option \"--colour\" for `ublkctl device list`",
                "ublkctl device list"},
        Mistake{{"device", "create"},
                "needs one of --volume POOL/NAME, --file PATH and --null SIZE",
                ""},
        Mistake{{"device", "create", "--null", "1G", "--volume", "a/b"}, "needs one of", ""},
        Mistake{{"device", "create", "--null", "much"},
                "--null: \"much\" is not a size",
                "ublkctl device create"},
        Mistake{{"device", "create", "--null", "1G", "--max-io", "5GiB"},
                "--max-io: \"5GiB\" is too large",
                "ublkctl device create"},
        Mistake{{"device", "create", "--null", "1G", "--queues", "few"},
                "--queues",
                "ublkctl device create"},
        Mistake{{"device", "create", "--null", "1G", "--depth", "-1"},
                "--depth",
                "ublkctl device create"},
        Mistake{{"device", "show"}, "DEVICE is required", "ublkctl device show"},
        Mistake{{"device", "limit", "0"}, "needs limits, such as --iops-limit N", ""},
        Mistake{{"device", "limit", "0", "--none", "--iops-limit", "1"}, "needs limits", ""},
        Mistake{
            {"device", "limit", "0", "--iops-limit", "1k"}, "--iops-limit", "ublkctl device limit"},
        Mistake{{"device", "limit", "0", "--bandwidth-limit", "fast"},
                "--bandwidth-limit: \"fast\" is not a size",
                "ublkctl device limit"},
        Mistake{{"device", "show", "sda"}, "\"sda\" is not a device", ""},
        Mistake{{"device", "delete", "0", "zero"}, "\"zero\" is not a device", ""},
        Mistake{{"volume", "create", "fast/db"}, "--size is required", "ublkctl volume create"},
        Mistake{{"volume", "resize", "fast/db"}, "--size is required", "ublkctl volume resize"},
        Mistake{{"device", "resize", "sda"}, "\"sda\" is not a device", ""},
        Mistake{{"volume", "create", "/db", "--size", "1G"}, "names no pool", ""},
        Mistake{{"volume", "create", "db", "--size", "1G", "--label", "x"},
                "--label \"x\" is not KEY=VALUE",
                ""},
        Mistake{{"info", "-o", "xml"}, "--output: \"xml\" is none of table, json", "ublkctl info"},
        Mistake{{"info", "--timeout", "soon"}, "--timeout: \"soon\" is not a time", "ublkctl info"},
        Mistake{{"info", "--timeout", "0"}, "--timeout: \"0\" is not a time", "ublkctl info"},
        Mistake{{"info", "--socket", std::string(200, 'x')}, "cannot be a socket", ""},
        Mistake{
            {"completion", "tcsh"}, "\"tcsh\" is none of bash, zsh, fish", "ublkctl completion"}));

TEST_F(CtlTest, WithoutACommandTheHelpIsShownAndTheExitCodeIsTwo) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{}, {"device"}, {"volume"}, {"pool"}}) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit_code, kUsage);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr("Commands:\n"));
    EXPECT_THAT(result.err, testing::EndsWith("` needs a command\n"));
  }
}

}  // namespace
}  // namespace ublkd::ctl
