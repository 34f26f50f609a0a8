// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/queue_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/ublk/abi.h"

namespace ublkd::ublk {
namespace {

/// More would only spread the submissions over more cache lines.
constexpr unsigned kMaxRingEntries = 64;
/// Completions that a target may have in flight for each tag without overflowing the ring, which
/// the kernel survives but slowly.
constexpr unsigned kCompletionsPerTag = 2;
constexpr unsigned kRegisteredFiles = 16;

void Pin(const ThreadSpec& spec) {
  if (CPU_COUNT(&spec.cpus) == 0) return;
  if (sched_setaffinity(0, sizeof(spec.cpus), &spec.cpus) != 0) {
    // A cpuset that leaves these CPUs out: slower, not wrong.
    LogInfo("a queue thread runs away from its queue's CPUs", {{"thread", spec.name}});
  }
}

}  // namespace

QueueThread::QueueThread(Options options) : options_(std::move(options)) {
  for (const TagRange& range : options_.spec.tags) {
    const bool known =
        std::any_of(served_.begin(), served_.end(),
                    [&range](const ServedQueue& served) { return served.queue == range.queue; });
    if (!known) served_.emplace_back(range.queue, options_.depth);
  }
}

QueueThread::~QueueThread() { Join(); }

void QueueThread::Join() {
  if (thread_.joinable()) thread_.join();
}

void QueueThread::Leave() {
  if (sender_.has_value()) leave_notice_.PostTo(*sender_);
}

void QueueThread::GiveMemoryBack() {
  if (sender_.has_value()) memory_notice_.PostTo(*sender_);
}

void QueueThread::Start(std::shared_ptr<CharDevice> device, DeviceTarget& target) {
  try {
    thread_ = std::thread(
        [this, device = std::move(device), &target]() mutable { Run(std::move(device), target); });
  } catch (const std::system_error& error) {
    ready_.set_value(absl::ResourceExhaustedError(
        absl::StrCat("start thread ", options_.spec.name, ": ", error.code().message(),
                     "; raise the limit of threads (pids.max of the control group)")));
    options_.on_end();
  }
}

absl::Status QueueThread::WaitReady() { return ready_.get_future().get(); }

size_t QueueThread::tag_count() const {
  size_t count = 0;
  for (const TagRange& range : options_.spec.tags) count += range.count;
  return count;
}

void QueueThread::Run(std::shared_ptr<CharDevice> device, DeviceTarget& target) {
  pthread_setname_np(pthread_self(), options_.spec.name.c_str());
  Pin(options_.spec);
  // Reclaim on behalf of this thread must not wait for the disk that it serves; what is refused
  // here was logged by PrepareServingProcess.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  {
    const uring::FrameArena::Scope frames(frames_);
    absl::Status status = SetUp(*device, target);
    if (status.ok()) status = FetchAll();
    ready_.set_value(status);
    Serve();
    // While it reads its last event, requests may come; their tags are still there.
    mailbox_.reset();
    tasks_.clear();
    tags_.clear();
    target_.reset();
    ring_.reset();
  }
  descriptors_.clear();
  device.reset();
  options_.on_end();
}

absl::Status QueueThread::SetUp(const CharDevice& device, DeviceTarget& target) {
  const size_t tags = tag_count();
  UBLKD_ASSIGN_OR_RETURN(
      ring_, uring::Ring::Create(
                 {.entries = std::min(std::bit_ceil(static_cast<unsigned>(tags)), kMaxRingEntries),
                  .completion_entries = static_cast<unsigned>(tags) * kCompletionsPerTag + 1,
                  .registered_files = kRegisteredFiles,
                  .registered_buffers = static_cast<unsigned>(tags),
                  .read_clock = options_.metrics}));
  if (options_.buffers == BufferMode::kCopy) {
    UBLKD_ASSIGN_OR_RETURN(buffers_, BufferPool::Create(tags, options_.max_io_bytes));
  }
  for (const TagRange& range : options_.spec.tags) {
    UBLKD_ASSIGN_OR_RETURN(DescriptorMap map,
                           DescriptorMap::Create(device, range.queue, options_.depth));
    descriptors_.push_back(std::move(map));
  }
  UBLKD_ASSIGN_OR_RETURN(target_, target.OpenQueue(*ring_));
  MakeTags(device);
  UBLKD_ASSIGN_OR_RETURN(mailbox_, uring::Mailbox::Create(*ring_));
  sender_ = mailbox_->sender();
  return absl::OkStatus();
}

void QueueThread::MakeTags(const CharDevice& device) {
  const uring::File char_device = ring_->RegisterFile(device.fd());
  const bool copies = options_.buffers == BufferMode::kCopy;
  for (size_t i = 0; i < options_.spec.tags.size(); ++i) {
    const TagRange& range = options_.spec.tags[i];
    const auto served =
        std::find_if(served_.begin(), served_.end(),
                     [&range](const ServedQueue& queue) { return queue.queue == range.queue; });
    for (uint16_t n = 0; n < range.count; ++n) {
      const auto tag = static_cast<uint16_t>(range.first + n * range.stride);
      const size_t place = tags_.size();
      tags_.emplace_back(Tag::Place{.ring = *ring_,
                                    .char_device = char_device,
                                    .live_tags = live_tags_,
                                    .leaving = leaving_,
                                    .served = *served,
                                    .metrics = options_.metrics,
                                    .mode = options_.buffers,
                                    .queue = range.queue,
                                    .tag = tag,
                                    .descriptor = descriptors_[i][tag],
                                    .buffer = copies ? buffers_[place] : nullptr,
                                    .buffer_place = static_cast<uint16_t>(place),
                                    .data_fd = device.fd()});
      tasks_.push_back(target_->Serve(tags_.back()));
    }
  }
}

absl::Status QueueThread::FetchAll() {
  live_tags_ = tasks_.size();
  for (uring::RootTask& task : tasks_) task.Start();
  // Submits the last of them. A command that the driver refuses is answered at once.
  ring_->RunOnce(/*wait=*/false);
  if (const int32_t result = FirstEndResult(); result != 0) {
    return ErrnoStatus(-result, absl::StrCat("fetch requests on ", options_.spec.name));
  }
  return absl::OkStatus();
}

int32_t QueueThread::FirstEndResult() const {
  for (const Tag& tag : tags_) {
    if (tag.end_result() != 0) return tag.end_result();
  }
  return 0;
}

bool QueueThread::holds_requests() const {
  return std::any_of(served_.begin(), served_.end(),
                     [](const ServedQueue& served) { return served.held > 0; });
}

void QueueThread::Serve() {
  while (live_tags_ > 0 && (!leaving_ || holds_requests())) {
    const uint64_t previous_ns = ring_->batch_ns();
    for (ServedQueue& served : served_) served.was_busy = served.held > 0;
    ring_->RunOnce();
    for (ServedQueue& served : served_) {
      if (served.was_busy) served.counters.AddBusy(ring_->batch_ns() - previous_ns);
    }
    if (giving_back_) [[unlikely]]
      GiveBuffersBack();
  }
  if (const int32_t result = FirstEndResult(); result != 0 && result != UBLK_IO_RES_ABORT) {
    LogError("the driver refused a command of a queue thread",
             {{"thread", options_.spec.name}, {"errno", -result}});
  }
}

void QueueThread::GiveBuffersBack() {
  giving_back_ = false;
  if (holds_requests()) return;
  // What was read is in the buffers until the driver has the answers.
  ring_->RunOnce(/*wait=*/false);
  // The driver fills a buffer when this thread enters the ring, and tells of it in the same moment:
  // now there is nothing in them, and nothing comes meanwhile.
  if (!holds_requests() && ring_->at_rest()) buffers_.GiveBack(Tag::kHotBytes);
}

uint64_t QueueThread::RequestCount() const {
  uint64_t sum = 0;
  for (const ServedQueue& served : served_) sum += served.counters.Started();
  return sum;
}

void QueueThread::AddTo(DeviceStats& stats) const {
  for (const ServedQueue& served : served_) served.counters.AddTo(stats.queues[served.queue]);
}

}  // namespace ublkd::ublk
