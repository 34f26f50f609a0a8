// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/csi/fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/base/rpc.h"
#include "daemon/csi/mountinfo.h"
#include "tests/unit/csi/loop_device.h"

namespace ublkd::csi {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kStartDeadline{60};
constexpr std::chrono::milliseconds kPollInterval{5};
constexpr int kSignalExitBase = 128;
constexpr char kPods[] = "/pods/";

// Whatever goes wrong, no mount of a test is seen outside of it.
void EnterPrivateNamespace() {
  static const bool entered = [] {
    return unshare(CLONE_NEWNS) == 0 && mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  }();
  ASSERT_TRUE(entered) << "cannot enter a mount namespace";
}

}  // namespace

bool WaitFor(const std::function<bool()>& condition, std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(kPollInterval);
  }
  return true;
}

bool Exists(const std::string& path) {
  struct stat state;
  return lstat(path.c_str(), &state) == 0;
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.flush();
  ASSERT_TRUE(file.good()) << "cannot write " << path;
}

std::string ReadText(const std::string& path) {
  const std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int RunShell(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string BlkidValue(const std::string& path, const std::string& name) {
  const std::string command = absl::StrCat("blkid -p -o value -s ", name, " ", path);
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 256> text{};
  const size_t got = fread(text.data(), 1, text.size() - 1, pipe);
  pclose(pipe);
  return std::string(absl::StripAsciiWhitespace(absl::string_view(text.data(), got)));
}

Process::Process(const std::vector<std::string>& arguments, const std::string& log,
                 const std::string& path) {
  std::vector<std::string> copies = arguments;
  std::vector<char*> argv;
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int output = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  close_range(STDERR_FILENO + 1, ~0U, 0);
  setenv("PATH", path.c_str(), 1);
  execv(argv[0], argv.data());
  _exit(127);
}

Process::~Process() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  Wait();
}

void Process::Signal(int number) const {
  if (pid_ > 0) kill(pid_, number);
}

int Process::Wait() {
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : kSignalExitBase + WTERMSIG(status);
}

void CsiTest::SetUp() {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: it mounts";
  ASSERT_NO_FATAL_FAILURE(EnterPrivateNamespace());
  // gRPC ends all of its threads with the last channel, which at times takes it ten seconds; one
  // channel that is never used keeps it alive. Its threads stay in the
  // namespace in which they are made, so not before.
  static const auto* const keep_grpc =
      new std::shared_ptr<grpc::Channel>(ConnectToUnixSocket("/nonexistent"));
  ASSERT_NE(*keep_grpc, nullptr);
  std::array<char, 32> name{"/tmp/ublkd-csi-test.XXXXXX"};
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  work_ = name.data();
  ASSERT_EQ(mount("none", work_.c_str(), "tmpfs", 0, "mode=0700"), 0);
  for (const char* folder : {"kubelet", "pools/pool", "state", "bin"}) {
    fs::create_directories(Path(folder));
  }
  // As on a node: kubelet's folder is on a shared mount.
  ASSERT_EQ(mount(kubelet().c_str(), kubelet().c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(mount("", kubelet().c_str(), nullptr, MS_SHARED, nullptr), 0);
  ublkd_ = std::make_unique<FakeUblkd>(Path("ublkd.sock"), Path("pools"));
  ublkd_->Start();
  StartCsi();
  open_files_at_start_ = OpenFiles();
}

void CsiTest::StartCsi() {
  csi_ = std::make_unique<Process>(
      std::vector<std::string>{UBLKD_CSI_PROGRAM, "--endpoint", "unix://" + Path("csi.sock"),
                               "--ublkd-socket", Path("ublkd.sock"), "--kubelet-dir", kubelet(),
                               "--state-dir", Path("state"), "--node-id", "node-1", "--log-level",
                               "debug"},
      Path("csi.log"), absl::StrCat(Path("bin"), ":/usr/sbin:/usr/bin:/sbin:/bin"));
  client_ = std::make_unique<CsiClient>(Path("csi.sock"));
  ASSERT_OK(client_->WaitUntilReady(kStartDeadline));
}

void CsiTest::KillCsi() {
  csi_->Signal(SIGKILL);
  csi_->Wait();
}

int CsiTest::StopCsi() {
  csi_->Signal(SIGTERM);
  return csi_->Wait();
}

void CsiTest::RestartCsi() {
  KillCsi();
  StartCsi();
}

void CsiTest::TearDown() {
  if (csi_ == nullptr) return;
  if (HasFailure()) std::cerr << CsiLog();
  EXPECT_THAT(MountsBelowKubelet(), ::testing::IsEmpty()) << "mounts are left over";
  EXPECT_EQ(CountLoops(work_), 0) << "devices are left over";
  EXPECT_TRUE(fs::is_empty(Path("state"))) << "records are left over";
  // It may have been reading one more when it was asked first, and may be reading one now.
  std::vector<std::string> left_open;
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  do {
    left_open.clear();
    std::ranges::set_difference(OpenFiles(), open_files_at_start_, std::back_inserter(left_open));
  } while (!left_open.empty() && absl::Now() < deadline);
  EXPECT_THAT(left_open, ::testing::IsEmpty()) << "open files are left over";
  EXPECT_EQ(StopCsi(), 0) << "ublkd-csi did not end cleanly on SIGTERM";
  EXPECT_FALSE(Exists(Path("csi.sock"))) << "the socket is left over";
  for (const std::string& left : MountsBelowKubelet()) umount2(left.c_str(), MNT_DETACH);
  ublkd_.reset();
  umount2(kubelet().c_str(), MNT_DETACH);
  umount2(work_.c_str(), MNT_DETACH);
  rmdir(work_.c_str());
}

std::string CsiTest::MakeVolume(const std::string& name, int64_t size_bytes,
                                const CsiClient::Capability& capability) {
  const auto id = client().CreateVolume(name, size_bytes, capability);
  EXPECT_TRUE(id.ok()) << id.status();
  return id.value_or("");
}

std::string CsiTest::Staging(const std::string& volume) const {
  const std::string path =
      absl::StrCat(kubelet(), "/plugins/kubernetes.io/csi/csi.ublkd.dev/", volume, "/globalmount");
  fs::create_directories(path);
  return path;
}

std::string CsiTest::BlockStaging(const std::string& volume) const {
  const std::string path =
      absl::StrCat(kubelet(), "/plugins/kubernetes.io/csi/volumeDevices/staging/", volume);
  fs::create_directories(path);
  return path;
}

std::string CsiTest::Target(const std::string& volume, const std::string& pod) const {
  const std::string above =
      absl::StrCat(kubelet(), kPods, pod, "/volumes/kubernetes.io~csi/", volume);
  fs::create_directories(above);
  return above + "/mount";
}

void CsiTest::CleanUp(const std::string& id, const std::string& staging,
                      const std::vector<std::string>& targets) {
  for (const std::string& target : targets) EXPECT_OK(client().Unpublish(id, target));
  EXPECT_OK(client().Unstage(id, staging));
  EXPECT_OK(client().DeleteVolume(id));
}

void CsiTest::PutProgram(const std::string& name, const std::string& script) const {
  const std::string path = absl::StrCat(Path("bin"), "/", name);
  WriteText(path, absl::StrCat("#!/bin/sh\n", script, "\n"));
  fs::permissions(path, fs::perms::owner_all);
}

void CsiTest::HoldMkfs() {
  WriteText(Path("hold"), "");
  PutProgram("mkfs.ext4",
             absl::StrCat("echo start >> ", Path("mkfs.starts"), "\nwhile [ -e ", Path("hold"),
                          " ]; do sleep 0.02; done\n", "exec /sbin/mkfs.ext4 \"$@\""));
}

void CsiTest::ReleaseMkfs() { fs::remove(Path("hold")); }

int CsiTest::MkfsStarts() const {
  const std::string starts = ReadText(Path("mkfs.starts"));
  return static_cast<int>(std::count(starts.begin(), starts.end(), '\n'));
}

std::string CsiTest::CsiLog() const { return ReadText(Path("csi.log")); }

std::vector<std::string> CsiTest::MountsBelowKubelet() const {
  const auto mounts = ReadMounts();
  EXPECT_TRUE(mounts.ok()) << mounts.status();
  std::vector<std::string> points;
  for (const MountEntry& entry : mounts.value_or(std::vector<MountEntry>{})) {
    if (absl::StartsWith(entry.mount_point, kubelet() + "/")) points.push_back(entry.mount_point);
  }
  return points;
}

std::vector<std::string> CsiTest::OpenFiles() const {
  // Connections come and go with gRPC's own threads; files, devices and pipes must not.
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(absl::StrCat("/proc/", csi_pid(), "/fd"))) {
    std::error_code error;
    const std::string target = fs::read_symlink(entry.path(), error);
    if (!error && !absl::StartsWith(target, "socket:") &&
        !absl::StartsWith(target, "anon_inode:")) {
      files.push_back(target);
    }
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace ublkd::csi
