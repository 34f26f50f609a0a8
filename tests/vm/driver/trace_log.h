// SPDX-License-Identifier: Apache-2.0
//
// What the kernel's tracepoints tell, in a trace buffer of our own.
#ifndef UBLKD_TESTS_VM_DRIVER_TRACE_LOG_H_
#define UBLKD_TESTS_VM_DRIVER_TRACE_LOG_H_

#include <string>
#include <vector>

namespace ublkd::driver_test {

class TraceLog {
 public:
  // Switches an event on, "group/name", or all of a "group". One log at a time.
  explicit TraceLog(const std::string& events);
  ~TraceLog();
  TraceLog(const TraceLog&) = delete;
  TraceLog& operator=(const TraceLog&) = delete;

  // False if the kernel has no such events.
  bool works() const { return works_; }
  // Nothing is recorded any more.
  void Stop();
  // The texts of events `name` until now, oldest first.
  std::vector<std::string> Of(const std::string& name) const;

 private:
  bool works_ = false;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_TRACE_LOG_H_
