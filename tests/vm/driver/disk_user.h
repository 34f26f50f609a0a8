// SPDX-License-Identifier: Apache-2.0
//
// The users of a disk: I/O that may have to wait for a server, load that checks itself, other
// people, and a look into sysfs. Also the servers that make them wait.
#ifndef UBLKD_TESTS_VM_DRIVER_DISK_USER_H_
#define UBLKD_TESTS_VM_DRIVER_DISK_USER_H_

#include <fcntl.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

// What a server does with the requests that come. Lies in memory that the test shares with it.
struct Valve {
  enum Setting {
    kAnswer,
    kHold,   // keeps them and goes on
    kBlock,  // its thread waits, with the request in its hands
    kDie,    // its thread ends, alone
  };
  std::atomic<int> setting = kAnswer;
  std::atomic<int> held = 0;  // requests that were not answered at once
};

// `inner` answers.
Handler ValveHandler(Valve* valve, Handler inner);

// Claims success for everything.
Handler AnswerAll();

// A disk that is open, for direct I/O.
class OpenDisk {
 public:
  explicit OpenDisk(const std::string& path, int flags = O_RDWR | O_DIRECT);
  ~OpenDisk() { Close(); }
  OpenDisk(const OpenDisk&) = delete;
  OpenDisk& operator=(const OpenDisk&) = delete;

  int fd() const { return fd_; }
  void Close();
  // Bytes, or 0 if it can't be told.
  uint64_t bytes() const;
  // One block, here and now: 4096 or -errno.
  int Read(off_t offset, std::byte* block = nullptr) const;
  int Write(off_t offset, uint64_t pattern) const;

 private:
  int fd_;
};

// One block read or written in a thread of its own, since it may wait for a server yet to come.
class PendingIo {
 public:
  enum class Op { kRead, kWrite };
  // On a processor of that number, or any.
  PendingIo(const OpenDisk& disk, Op op, off_t offset, int cpu = -1);
  // Leaves an I/O that hangs alone.
  ~PendingIo();
  PendingIo(const PendingIo&) = delete;
  PendingIo& operator=(const PendingIo&) = delete;

  // True if it does not end within `time`.
  bool Waits(std::chrono::milliseconds time = std::chrono::milliseconds(200)) const;
  // 4096 or -errno; nothing if it hangs.
  std::optional<int> Result(std::chrono::milliseconds limit = std::chrono::seconds(30)) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::thread thread_;
};

// Threads that write blocks and check what they read, each in a part of the disk of its own.
class VerifiedLoad {
 public:
  // Blocks are tried again that fail with `tolerated`, an errno. Another error ends a thread.
  VerifiedLoad(const std::string& disk, int threads, int tolerated = 0);
  ~VerifiedLoad();
  VerifiedLoad(const VerifiedLoad&) = delete;
  VerifiedLoad& operator=(const VerifiedLoad&) = delete;

  // Ends the load and reads everything once more.
  void Finish();
  int done() const { return done_; }
  int errors() const { return errors_; }
  // Blocks that were read back other than written.
  int wrong() const { return wrong_; }

 private:
  void Run(const std::string& disk, int thread, int tolerated);

  std::atomic<bool> stop_ = false;
  std::atomic<int> done_ = 0;
  std::atomic<int> errors_ = 0;
  std::atomic<int> wrong_ = 0;
  std::vector<std::thread> threads_;
};

// Runs `action` in a thread that belongs to an ordinary user, and waits for its end. What it
// starts belongs to that user too.
void AsUser(uid_t uid, gid_t gid, const std::function<void()>& action);

// A processor whose requests go to the queue.
int CpuOfQueue(Control& control, uint32_t id, uint16_t queue);

// First line of a file, or "".
std::string ReadLine(const std::string& path);
bool WriteLine(const std::string& path, const std::string& line);
// Of the char device in sysfs.
std::string Attribute(uint32_t id, const std::string& name);
// Of the disk in sysfs.
std::string DiskAttributePath(uint32_t id, const std::string& name);

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_DISK_USER_H_
