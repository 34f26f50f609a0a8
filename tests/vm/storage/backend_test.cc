// SPDX-License-Identifier: Apache-2.0
//
// Backends in trouble: a disk that fails or hangs, a full filesystem, a file that was cut off. The
// right errno reaches the user, the device stays, log and metrics say it, and all works again when
// the backend does.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "daemon/base/status.h"
#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kDiskBytes = 64 * kMiB;
constexpr uint64_t kBlockBytes = 4096;
// Of an emulated machine.
constexpr seconds kLimit(60);
constexpr seconds kFioLimit(300);
constexpr int kStuck = 3;

/// A disk of device-mapper, in a file.
class MappedDisk {
 public:
  static absl::StatusOr<std::unique_ptr<MappedDisk>> Make(const std::string& file) {
    std::unique_ptr<MappedDisk> disk(new MappedDisk);
    UBLKD_RETURN_IF_ERROR(
        RunCommand({"truncate", absl::StrCat("--size=", kDiskBytes), file}).status());
    UBLKD_ASSIGN_OR_RETURN(const std::string loop,
                           RunCommand({"losetup", "--find", "--show", file}));
    disk->loop_ = std::string(absl::StripAsciiWhitespace(loop));
    UBLKD_RETURN_IF_ERROR(
        RunCommand({"dmsetup", "create", kName, "--table", disk->GoodTable()}).status());
    UBLKD_ASSIGN_OR_RETURN(
        const std::string minor,
        RunCommand({"dmsetup", "info", "-c", "--noheadings", "-o", "minor", kName}));
    disk->path_ = absl::StrCat("/dev/dm-", absl::StripAsciiWhitespace(minor));
    return disk;
  }
  ~MappedDisk() {
    (void)Answer();
    (void)RunCommand({"dmsetup", "remove", "--retry", kName});
    if (!loop_.empty()) (void)RunCommand({"losetup", "--detach", loop_});
  }

  const std::string& path() const { return path_; }
  absl::Status Fail() { return Swap(absl::StrCat("0 ", kSectors, " error")); }
  absl::Status Heal() { return Swap(GoodTable()); }
  /// From now on requests wait in it.
  absl::Status Hang() {
    return RunCommand({"dmsetup", "suspend", "--noflush", "--nolockfs", kName}).status();
  }
  absl::Status Answer() { return RunCommand({"dmsetup", "resume", kName}).status(); }

 private:
  static constexpr char kName[] = "backend";
  static constexpr uint64_t kSectors = kDiskBytes / 512;

  std::string GoodTable() const { return absl::StrCat("0 ", kSectors, " linear ", loop_, " 0"); }
  absl::Status Swap(const std::string& table) {
    UBLKD_RETURN_IF_ERROR(RunCommand({"dmsetup", "reload", kName, "--table", table}).status());
    UBLKD_RETURN_IF_ERROR(Hang());
    return Answer();
  }

  std::string loop_;
  std::string path_;
};

/// A user of a disk who sees each errno.
class DiskUser {
 public:
  explicit DiskUser(const std::string& path)
      : fd_(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC)),
        block_(static_cast<char*>(std::aligned_alloc(kBlockBytes, kBlockBytes)), &std::free) {
    EXPECT_TRUE(fd_.valid()) << path;
  }
  /// 0 or an errno.
  int Write(uint64_t offset, char fill) {
    std::memset(block_.get(), fill, kBlockBytes);
    return pwrite(fd_.get(), block_.get(), kBlockBytes, static_cast<off_t>(offset)) < 0 ? errno : 0;
  }
  int Read(uint64_t offset) {
    std::memset(block_.get(), '?', kBlockBytes);
    return pread(fd_.get(), block_.get(), kBlockBytes, static_cast<off_t>(offset)) < 0 ? errno : 0;
  }
  int Flush() { return fdatasync(fd_.get()) < 0 ? errno : 0; }
  /// What was read last.
  bool BlockIs(char fill) const {
    return block_.get()[0] == fill &&
           std::memcmp(block_.get(), block_.get() + 1, kBlockBytes - 1) == 0;
  }

 private:
  UniqueFd fd_;
  std::unique_ptr<char, decltype(&std::free)> block_;
};

class Backend : public NodeTest {
 protected:
  static constexpr char kSmall[] = "/scratch/small";

  void SetUp() override { StartNode(0, {"--stuck-request-ms=2000"}); }

  void TearDown() override {
    if (disk_ != nullptr) (void)disk_->Answer();
    if (node_ != nullptr) {
      for (const uint32_t id : made_) (void)Delete(id);
    }
    disk_.reset();
    NodeTest::TearDown();
    if (small_) (void)RunCommand({"umount", kSmall});
  }

  void MakeDisk() {
    if (!RunCommand({"modprobe", "dm-mod"}).ok()) GTEST_SKIP() << "no device-mapper here";
    ASSERT_OK(RunCommand({"modprobe", "loop"}));
    auto disk = MappedDisk::Make(std::string(kRoot) + "/disk");
    ASSERT_OK(disk);
    disk_ = *std::move(disk);
  }

  absl::StatusOr<ublkd::v1::Device> Attach(const ublkd::v1::DeviceSpec& spec) {
    ublkd::v1::CreateDeviceRequest request;
    *request.mutable_spec() = spec;
    grpc::ClientContext context;
    ublkd::v1::Device device;
    const grpc::Status status = node_->devices().CreateDevice(&context, request, &device);
    if (!status.ok()) return absl::InternalError(status.error_message());
    made_.push_back(device.id());
    return device;
  }
  absl::StatusOr<ublkd::v1::Device> AttachFile(const std::string& path) {
    ublkd::v1::DeviceSpec spec;
    spec.mutable_file()->set_path(path);
    return Attach(spec);
  }
  absl::StatusOr<ublkd::v1::Device> AttachVolume(const std::string& pool, const std::string& name,
                                                 uint64_t size_bytes) {
    ublkd::v1::CreateVolumeRequest request;
    request.set_pool(pool);
    request.set_name(name);
    request.set_size_bytes(size_bytes);
    grpc::ClientContext context;
    ublkd::v1::Volume volume;
    const grpc::Status status = node_->volumes().CreateVolume(&context, request, &volume);
    if (!status.ok()) return absl::InternalError(status.error_message());
    ublkd::v1::DeviceSpec spec;
    spec.mutable_volume()->set_volume_id(volume.id());
    return Attach(spec);
  }
  absl::Status Delete(uint32_t id) {
    ublkd::v1::DeleteDeviceRequest request;
    request.set_id(id);
    grpc::ClientContext context;
    ublkd::v1::DeleteDeviceResponse response;
    const grpc::Status status = node_->devices().DeleteDevice(&context, request, &response);
    return status.ok() ? absl::OkStatus() : absl::InternalError(status.error_message());
  }

  ublkd::v1::Device Look(uint32_t id) {
    ublkd::v1::GetDeviceRequest request;
    request.set_id(id);
    grpc::ClientContext context;
    ublkd::v1::Device device;
    const grpc::Status status = node_->devices().GetDevice(&context, request, &device);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return device;
  }
  bool IsLive(uint32_t id) { return Look(id).state() == ublkd::v1::Device::STATE_LIVE; }
  bool BecomesLive(uint32_t id) {
    return Eventually([&] { return IsLive(id); }, kLimit);
  }

  /// The sum of a metric's samples that have all of the labels.
  double Metric(const std::string& name, const std::map<std::string, std::string>& labels) {
    const auto text = node_->Fetch("/metrics");
    EXPECT_TRUE(text.ok()) << text.status();
    double sum = 0;
    for (const Sample& sample : ParseMetrics(text.ok() ? *text : "")) {
      bool fits = sample.name == name;
      for (const auto& [label, value] : labels) {
        const auto found = sample.labels.find(label);
        fits = fits && found != sample.labels.end() && found->second == value;
      }
      if (fits) sum += sample.value;
    }
    return sum;
  }
  /// Lines of ublkd's log with this message.
  int Said(const std::string& message) {
    const auto log = ReadFile(node_->daemon_log());
    int lines = 0;
    for (const absl::string_view line : absl::StrSplit(log.ok() ? *log : "", '\n')) {
      if (absl::StrContains(line, message)) ++lines;
    }
    return lines;
  }
  bool Says(const std::string& message) {
    return Eventually([&] { return Said(message) > 0; }, kLimit);
  }
  std::string Ctl(const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {"/opt/ublkd/bin/ublkctl", "--socket",
                                        node_->daemon_socket()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const auto printed = RunCommand(command);
    EXPECT_TRUE(printed.ok()) << printed.status();
    return printed.ok() ? *printed : "";
  }

  static std::vector<std::string> Fio(const std::string& path) {
    return {"fio",         "--name=load",     "--filename=" + path, "--size=4m",
            "--bs=4k",     "--rw=randwrite",  "--direct=1",         "--ioengine=io_uring",
            "--iodepth=8", "--verify=crc32c", "--verify_fatal=1",   "--fdatasync=64"};
  }
  /// A user of a disk that hangs, and of whom nothing comes back until it answers.
  std::unique_ptr<Process> StartUser(const std::string& path) {
    auto user = Process::Start(Fio(path), std::string(kRoot) + "/log/fio.log");
    EXPECT_TRUE(user.ok()) << user.status();
    return user.ok() ? *std::move(user) : nullptr;
  }
  void ExpectUserFinishes(Process& user) {
    const auto code = user.Wait(kFioLimit);
    ASSERT_OK(code);
    EXPECT_EQ(*code, 0) << "I/O failed or what was written is not there:\n"
                        << *ReadFile(std::string(kRoot) + "/log/fio.log");
  }

  std::unique_ptr<MappedDisk> disk_;
  std::vector<uint32_t> made_;
  bool small_ = false;
};

TEST_F(Backend, ADiskThatFailsIsEioUntilItWorksAgain) {
  ASSERT_NO_FATAL_FAILURE(MakeDisk());
  if (IsSkipped()) return;
  const auto device = AttachFile(disk_->path());
  ASSERT_OK(device);
  const std::string volume_id = absl::StrCat("device:", device->id());
  {
    DiskUser user(device->path());
    EXPECT_EQ(user.Write(kMiB, 'a'), 0);
    ASSERT_OK(disk_->Fail());
    EXPECT_EQ(user.Read(kMiB), EIO);
    for (int i = 0; i < 100; ++i) ASSERT_EQ(user.Write(kMiB, 'b'), EIO);
    EXPECT_TRUE(IsLive(device->id()));
    EXPECT_EQ(Metric("ublkd_io_errors_total",
                     {{"volume_id", volume_id}, {"op", "write"}, {"error", "EIO"}}),
              100);
    EXPECT_GE(Metric("ublkd_queue_io_errors_total", {{"volume_id", volume_id}}), 101);
    EXPECT_TRUE(Says("device has I/O errors"));
    EXPECT_THAT(Ctl({"device", "show", absl::StrCat(device->id())}),
                HasSubstr("100 write (last: Input/output error)"));

    ASSERT_OK(disk_->Heal());
    EXPECT_EQ(user.Read(kMiB), 0);
    EXPECT_TRUE(user.BlockIs('a')) << "what failed was not written";
    EXPECT_EQ(user.Write(kMiB, 'c'), 0);
    EXPECT_EQ(user.Flush(), 0);
    EXPECT_EQ(user.Read(kMiB), 0);
    EXPECT_TRUE(user.BlockIs('c'));
  }
  ASSERT_OK(RunCommand(Fio(device->path()), kFioLimit));
  EXPECT_TRUE(IsLive(device->id()));
  EXPECT_TRUE(Says("device has no more I/O errors"));
  EXPECT_EQ(Said("device has I/O errors"), 1) << "one line, not one for each error";
}

TEST_F(Backend, ADiskThatHangsHoldsUpNobodyElse) {
  ASSERT_NO_FATAL_FAILURE(MakeDisk());
  if (IsSkipped()) return;
  const auto hung = AttachFile(disk_->path());
  ASSERT_OK(hung);
  const auto other = AttachVolume("local", "other", kDiskBytes);
  ASSERT_OK(other);
  const std::map<std::string, std::string> labels = {
      {"volume_id", absl::StrCat("device:", hung->id())}};
  ASSERT_OK(disk_->Hang());
  const auto user = StartUser(hung->path());
  ASSERT_NE(user, nullptr);
  EXPECT_TRUE(Says("backend of a device does not answer"));
  EXPECT_GE(Metric("ublkd_queue_oldest_request_seconds", labels), 2);
  EXPECT_GT(Metric("ublkd_queue_inflight", labels), 0);
  ASSERT_OK(node_->Fetch("/healthz"));
  ASSERT_OK(node_->Fetch("/readyz"));
  EXPECT_THAT(Ctl({"device", "show", absl::StrCat(hung->id())}),
              HasSubstr("oldest request:   waits for the target, "));
  EXPECT_TRUE(IsLive(hung->id()));

  ASSERT_OK(RunCommand(Fio(other->path()), kFioLimit));
  const auto third = AttachVolume("local", "third", kDiskBytes);
  ASSERT_OK(third);
  ASSERT_OK(Delete(third->id()));
  EXPECT_TRUE(user->Running()) << "its requests cannot have been answered";

  ASSERT_OK(disk_->Answer());
  ASSERT_NO_FATAL_FAILURE(ExpectUserFinishes(*user));
  EXPECT_TRUE(Says("backend of a device answers again"));
  EXPECT_EQ(Metric("ublkd_queue_oldest_request_seconds", labels), 0);
  EXPECT_EQ(Metric("ublkd_queue_io_errors_total", labels), 0);
  EXPECT_EQ(Said("backend of a device does not answer"), 1);
}

/// How ublkd is ended.
class BackendAtTheEnd : public Backend, public testing::WithParamInterface<int> {};

INSTANTIATE_TEST_SUITE_P(Signals, BackendAtTheEnd, testing::Values(SIGTERM, SIGKILL),
                         [](const testing::TestParamInfo<int>& number) {
                           return std::string(number.param == SIGTERM ? "Term" : "Kill");
                         });

TEST_P(BackendAtTheEnd, ADiskThatHangsIsTakenOverWhenItAnswers) {
  ASSERT_NO_FATAL_FAILURE(MakeDisk());
  if (IsSkipped()) return;
  const auto hung = AttachFile(disk_->path());
  ASSERT_OK(hung);
  const auto other = AttachVolume("local", "other", kDiskBytes);
  ASSERT_OK(other);
  ASSERT_OK(disk_->Hang());
  const auto user = StartUser(hung->path());
  ASSERT_NE(user, nullptr);
  ASSERT_TRUE(Eventually(
      [&] {
        return Metric("ublkd_queue_inflight", {{"volume_id", "device:0"}}) > 0;
      },
      kLimit));

  node_->daemon().Signal(GetParam());
  const auto code = node_->daemon().Wait(kLimit);
  ASSERT_OK(code);
  EXPECT_EQ(*code, GetParam() == SIGTERM ? kStuck : 128 + SIGKILL);
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  // Its backend still has what the one before asked of it.
  EXPECT_FALSE(IsLive(hung->id()));
  EXPECT_TRUE(BecomesLive(other->id()));
  ASSERT_OK(RunCommand(Fio(other->path()), kFioLimit));
  EXPECT_TRUE(user->Running());

  ASSERT_OK(disk_->Answer());
  EXPECT_TRUE(BecomesLive(hung->id())) << Look(hung->id()).reason();
  ASSERT_NO_FATAL_FAILURE(ExpectUserFinishes(*user));
}

TEST_F(Backend, AFullPoolIsEnospcUntilThereIsRoom) {
  ASSERT_OK(RunCommand({"modprobe", "loop"}));
  const std::string image = std::string(kRoot) + "/small.img";
  ASSERT_OK(RunCommand({"truncate", "--size=64M", image}));
  ASSERT_OK(RunCommand({"mkfs.ext4", "-q", "-m", "0", image}));
  ASSERT_OK(RunCommand({"mkdir", "-p", kSmall}));
  ASSERT_OK(RunCommand({"mount", "-o", "loop", image, kSmall}));
  small_ = true;
  ASSERT_OK(RunCommand({"mkdir", "-m", "0700", std::string(kSmall) + "/pool"}));
  ASSERT_OK(RunCommand({"fallocate", "--length=44M", std::string(kSmall) + "/ballast"}));
  StartNode(0, {absl::StrCat("--pool=small=", kSmall, "/pool,overcommit=16")});
  const auto device = AttachVolume("small", "thin", 2 * kDiskBytes);
  ASSERT_OK(device);
  {
    DiskUser user(device->path());
    uint64_t end = 0;
    int error = 0;
    while (error == 0 && end < 2 * kDiskBytes) {
      error = user.Write(end, 'w');
      if (error == 0) end += kBlockBytes;
    }
    ASSERT_EQ(error, ENOSPC) << "after " << end << " bytes";
    EXPECT_EQ(user.Read(0), 0);
    EXPECT_TRUE(user.BlockIs('w'));
    EXPECT_EQ(user.Write(0, 'x'), 0) << "what has room can be written again";
    EXPECT_TRUE(IsLive(device->id()));
    EXPECT_GE(Metric("ublkd_io_errors_total",
                     {{"volume_id", "small/thin"}, {"op", "write"}, {"error", "ENOSPC"}}),
              1);
    EXPECT_TRUE(Says("\"last_error\":\"No space left on device\""));
    EXPECT_THAT(Ctl({"device", "show", absl::StrCat(device->id())}),
                HasSubstr("(last: No space left on device)"));

    ASSERT_OK(RunCommand({"rm", std::string(kSmall) + "/ballast"}));
    EXPECT_EQ(user.Write(end, 'y'), 0) << "there is room again";
    EXPECT_EQ(user.Flush(), 0);
    EXPECT_EQ(user.Read(end), 0);
    EXPECT_TRUE(user.BlockIs('y'));
  }
  ASSERT_OK(Delete(device->id()));
  // The pool's filesystem is let go of before it is unmounted.
  ASSERT_OK(node_->Stop());
  ASSERT_OK(RunCommand({"umount", kSmall}));
  small_ = false;
}

TEST_F(Backend, ACutOffFileIsEioAndNeverZeroes) {
  const auto device = AttachVolume("local", "cut", kDiskBytes);
  ASSERT_OK(device);
  const std::string file = node_->pool_dir() + "/cut.img";
  const uint64_t high = kDiskBytes - kMiB;
  {
    DiskUser user(device->path());
    EXPECT_EQ(user.Write(0, 'l'), 0);
    EXPECT_EQ(user.Write(high, 'h'), 0);
    EXPECT_EQ(user.Flush(), 0);
    ASSERT_OK(RunCommand({"truncate", "--size=1M", file}));
    EXPECT_EQ(user.Read(high), EIO);
    // Its size is looked at some times in a second; cut off again each time.
    EXPECT_TRUE(Eventually(
        [&] { return truncate(file.c_str(), kMiB) == 0 && user.Write(high, 'x') == EIO; }, kLimit));
    EXPECT_EQ(std::filesystem::file_size(file), kMiB) << "a write has made it longer";
    EXPECT_EQ(user.Read(high), EIO);
    EXPECT_EQ(user.Read(0), 0);
    EXPECT_TRUE(user.BlockIs('l'));
    EXPECT_EQ(user.Write(0, 'm'), 0);
    EXPECT_TRUE(IsLive(device->id()));
    EXPECT_GE(Metric("ublkd_io_errors_total", {{"volume_id", "local/cut"}, {"error", "EIO"}}), 3);
    EXPECT_TRUE(Says("device has I/O errors"));

    ASSERT_OK(RunCommand({"truncate", absl::StrCat("--size=", kDiskBytes), file}));
    EXPECT_TRUE(Eventually([&] { return user.Write(high, 'n') == 0; }, kLimit));
    EXPECT_EQ(user.Read(high), 0);
    EXPECT_TRUE(user.BlockIs('n'));
    EXPECT_EQ(user.Read(0), 0);
    EXPECT_TRUE(user.BlockIs('m'));
  }
  ASSERT_OK(RunCommand(Fio(device->path()), kFioLimit));
}

}  // namespace
}  // namespace ublkd::test
