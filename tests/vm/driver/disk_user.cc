// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/disk_user.h"

#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <utility>

namespace ublkd::driver_test {
namespace {

constexpr size_t kBlockBytes = 4096;

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Block = std::unique_ptr<std::byte[], FreeMemory>;

Block NewBlock() {
  Block block(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes)));
  std::memset(block.get(), 0, kBlockBytes);
  return block;
}

void Fill(std::byte* block, uint64_t pattern) {
  for (size_t at = 0; at < kBlockBytes; at += sizeof(pattern)) {
    std::memcpy(block + at, &pattern, sizeof(pattern));
  }
}

bool Holds(const std::byte* block, uint64_t pattern) {
  for (size_t at = 0; at < kBlockBytes; at += sizeof(pattern)) {
    if (std::memcmp(block + at, &pattern, sizeof(pattern)) != 0) return false;
  }
  return true;
}

int OrErrno(ssize_t result) { return result < 0 ? -errno : static_cast<int>(result); }

}  // namespace

Handler ValveHandler(Valve* valve, Handler inner) {
  return [valve, inner = std::move(inner)](const Request& request) -> std::optional<int> {
    if (valve->setting == Valve::kAnswer) return inner(request);
    ++valve->held;
    if (valve->setting == Valve::kHold) return std::nullopt;
    while (valve->setting == Valve::kBlock) usleep(1000);
    if (valve->setting == Valve::kDie) syscall(SYS_exit, 0);
    return inner(request);
  };
}

Handler AnswerAll() {
  return [](const Request& request) -> std::optional<int> {
    return static_cast<int>(request.bytes());
  };
}

OpenDisk::OpenDisk(const std::string& path, int flags)
    : fd_(open(path.c_str(), flags | O_CLOEXEC)) {}

void OpenDisk::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

uint64_t OpenDisk::bytes() const {
  uint64_t bytes = 0;
  return ioctl(fd_, BLKGETSIZE64, &bytes) == 0 ? bytes : 0;
}

int OpenDisk::Read(off_t offset, std::byte* block) const {
  const Block memory = NewBlock();
  const int result = OrErrno(pread(fd_, memory.get(), kBlockBytes, offset));
  if (block != nullptr) std::memcpy(block, memory.get(), kBlockBytes);
  return result;
}

int OpenDisk::Write(off_t offset, uint64_t pattern) const {
  const Block memory = NewBlock();
  Fill(memory.get(), pattern);
  return OrErrno(pwrite(fd_, memory.get(), kBlockBytes, offset));
}

struct PendingIo::State {
  Block block = NewBlock();
  std::atomic<bool> ended = false;
  int result = 0;
};

PendingIo::PendingIo(const OpenDisk& disk, Op op, off_t offset, int cpu)
    : state_(std::make_shared<State>()) {
  thread_ = std::thread([state = state_, fd = disk.fd(), op, offset, cpu] {
    if (cpu >= 0) {
      cpu_set_t cpus;
      CPU_ZERO(&cpus);
      CPU_SET(static_cast<size_t>(cpu), &cpus);
      sched_setaffinity(0, sizeof(cpus), &cpus);
    }
    state->result = OrErrno(op == Op::kRead ? pread(fd, state->block.get(), kBlockBytes, offset)
                                            : pwrite(fd, state->block.get(), kBlockBytes, offset));
    state->ended = true;
  });
}

PendingIo::~PendingIo() {
  if (state_->ended)
    thread_.join();
  else
    thread_.detach();
}

bool PendingIo::Waits(std::chrono::milliseconds time) const {
  return !Eventually([&] { return state_->ended.load(); }, time);
}

std::optional<int> PendingIo::Result(std::chrono::milliseconds limit) const {
  if (!Eventually([&] { return state_->ended.load(); }, limit)) return std::nullopt;
  return state_->result;
}

VerifiedLoad::VerifiedLoad(const std::string& disk, int threads, int tolerated) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this, disk, i, tolerated] { Run(disk, i, tolerated); });
  }
}

VerifiedLoad::~VerifiedLoad() { Finish(); }

void VerifiedLoad::Finish() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void VerifiedLoad::Run(const std::string& disk, int thread, int tolerated) {
  constexpr size_t kBlocks = 64;
  const OpenDisk open(disk);
  const Block block = NewBlock();
  std::mt19937_64 random(static_cast<uint64_t>(thread) + 1);
  std::vector<uint64_t> written(kBlocks);
  const auto offset = [&](size_t i) {
    return static_cast<off_t>((static_cast<size_t>(thread) * kBlocks + i) * kBlockBytes);
  };
  const auto succeeds = [&](const std::function<int()>& io) {
    for (;;) {
      const int result = io();
      if (result == int{kBlockBytes}) return true;
      ++errors_;
      if (result != -tolerated || tolerated == 0) return false;
    }
  };
  const auto write = [&](size_t i) {
    const uint64_t pattern = random();
    const bool ok = succeeds([&] { return open.Write(offset(i), pattern); });
    if (ok) written[i] = pattern;
    return ok;
  };
  const auto check = [&](size_t i) {
    const bool ok = succeeds([&] { return open.Read(offset(i), block.get()); });
    if (ok && !Holds(block.get(), written[i])) ++wrong_;
    return ok;
  };

  // The first error that is not tolerated ends the thread.
  bool ok = true;
  for (size_t i = 0; ok && i < kBlocks; ++i) ok = write(i);
  while (ok && !stop_) {
    ok = write(random() % kBlocks) && check(random() % kBlocks);
    ++done_;
  }
  for (size_t i = 0; ok && i < kBlocks; ++i) ok = check(i);
}

void AsUser(uid_t uid, gid_t gid, const std::function<void()>& action) {
  std::thread([&] {
    // Not the library's calls, which change all threads.
    if (syscall(SYS_setgroups, 0, nullptr) != 0 || syscall(SYS_setresgid, gid, gid, gid) != 0 ||
        syscall(SYS_setresuid, uid, uid, uid) != 0) {
      std::abort();
    }
    action();
  }).join();
}

int CpuOfQueue(Control& control, uint32_t id, uint16_t queue) {
  unsigned char mask[128] = {};
  if (control.Run(UBLK_U_CMD_GET_QUEUE_AFFINITY,
                  {.dev_id = id, .len = sizeof(mask), .addr = mask, .data = queue}) != 0) {
    return -1;
  }
  for (int cpu = 0; cpu < int{sizeof(mask)} * 8; ++cpu) {
    if ((mask[cpu / 8] >> cpu % 8 & 1) != 0) return cpu;
  }
  return -1;
}

std::string ReadLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

bool WriteLine(const std::string& path, const std::string& line) {
  std::ofstream file(path);
  file << line << std::endl;
  return file.good();
}

std::string Attribute(uint32_t id, const std::string& name) {
  return ReadLine("/sys/class/ublk-char/ublkc" + std::to_string(id) + "/" + name);
}

std::string DiskAttributePath(uint32_t id, const std::string& name) {
  return "/sys/block/ublkb" + std::to_string(id) + "/" + name;
}

}  // namespace ublkd::driver_test
