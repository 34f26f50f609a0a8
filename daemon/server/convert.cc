// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/convert.h"

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::server {
namespace {

google::protobuf::Timestamp FromTime(absl::Time time) {
  google::protobuf::Timestamp timestamp;
  const int64_t seconds = absl::ToUnixSeconds(time);
  timestamp.set_seconds(seconds);
  timestamp.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return timestamp;
}

v1::Device::State FromDeviceState(volume::DeviceState state) {
  switch (state) {
    case volume::DeviceState::kLive:
      return v1::Device::STATE_LIVE;
    case volume::DeviceState::kQuiesced:
      return v1::Device::STATE_QUIESCED;
    case volume::DeviceState::kRecovering:
      return v1::Device::STATE_RECOVERING;
    case volume::DeviceState::kFailed:
      return v1::Device::STATE_FAILED;
  }
  return v1::Device::STATE_UNSPECIFIED;
}

v1::Format::State FromFormatState(volume::Format::State state) {
  switch (state) {
    case volume::Format::State::kNever:
      return v1::Format::STATE_NEVER;
    case volume::Format::State::kFormatting:
      return v1::Format::STATE_FORMATTING;
    case volume::Format::State::kFormatted:
      return v1::Format::STATE_FORMATTED;
    case volume::Format::State::kUnknown:
      break;
  }
  return v1::Format::STATE_UNSPECIFIED;
}

v1::Format FromFormat(const volume::Format& format) {
  v1::Format message;
  message.set_state(FromFormatState(format.state));
  message.set_fs_type(format.fs_type);
  message.set_fs_uuid(format.fs_uuid);
  *message.mutable_changed_at() = FromTime(format.changed_at);
  return message;
}

v1::Content FromContent(volume::Content content) {
  switch (content) {
    case volume::Content::kEmpty:
      return v1::CONTENT_EMPTY;
    case volume::Content::kPresent:
      return v1::CONTENT_PRESENT;
    case volume::Content::kUnknown:
      break;
  }
  return v1::CONTENT_UNSPECIFIED;
}

v1::BufferMode FromBufferMode(std::optional<ublk::BufferMode> mode) {
  if (!mode.has_value()) return v1::BUFFER_MODE_UNSPECIFIED;
  switch (*mode) {
    case ublk::BufferMode::kCopy:
      return v1::BUFFER_MODE_COPY;
    case ublk::BufferMode::kUserCopy:
      return v1::BUFFER_MODE_USER_COPY;
    case ublk::BufferMode::kZeroCopy:
      return v1::BUFFER_MODE_ZERO_COPY;
  }
  return v1::BUFFER_MODE_UNSPECIFIED;
}

absl::StatusOr<std::optional<ublk::BufferMode>> ToBufferMode(v1::BufferMode mode) {
  switch (mode) {
    case v1::BUFFER_MODE_UNSPECIFIED:
      return std::nullopt;
    case v1::BUFFER_MODE_COPY:
      return ublk::BufferMode::kCopy;
    case v1::BUFFER_MODE_USER_COPY:
      return ublk::BufferMode::kUserCopy;
    case v1::BUFFER_MODE_ZERO_COPY:
      return ublk::BufferMode::kZeroCopy;
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "spec.buffer_mode: ", static_cast<int>(mode),
          " is of a kind this ublkd does not know; give copy, user copy or zero copy"));
  }
}

v1::DeviceLimits FromLimits(const target::IoLimits& limits) {
  v1::DeviceLimits message;
  message.set_iops(limits.iops);
  message.set_burst_ios(limits.burst_ios);
  message.set_bytes_per_second(limits.bytes_per_second);
  message.set_burst_bytes(limits.burst_bytes);
  return message;
}

v1::DeviceSpec FromSpec(const volume::DeviceSpec& spec) {
  v1::DeviceSpec message;
  if (const auto* null = std::get_if<volume::NullSpec>(&spec.target)) {
    message.mutable_null()->set_size_bytes(null->size_bytes);
  } else if (const auto* file = std::get_if<volume::FileSpec>(&spec.target)) {
    message.mutable_file()->set_path(file->path);
  } else {
    message.mutable_volume()->set_volume_id(std::get<volume::VolumeSpec>(spec.target).id);
  }
  if (spec.id.has_value()) message.set_id(*spec.id);
  message.set_queues(spec.queues);
  message.set_depth(spec.depth);
  message.set_threads_per_queue(spec.threads_per_queue);
  message.set_max_io_bytes(spec.max_io_bytes);
  message.set_logical_block_bytes(spec.logical_block_bytes);
  message.set_read_only(spec.read_only);
  message.set_buffer_mode(FromBufferMode(spec.buffers));
  if (spec.limits.has_value()) *message.mutable_limits() = FromLimits(*spec.limits);
  if (spec.fail_after_seconds.has_value()) {
    message.set_fail_after_seconds(*spec.fail_after_seconds);
  }
  return message;
}

}  // namespace

absl::StatusOr<volume::VolumeRequest> ToVolumeRequest(const v1::CreateVolumeRequest& message) {
  volume::VolumeRequest request;
  request.name = message.name();
  request.size_bytes = message.size_bytes();
  if (message.logical_block_bytes() != 0) {
    request.logical_block_bytes = message.logical_block_bytes();
  }
  switch (message.provisioning()) {
    case v1::PROVISIONING_UNSPECIFIED:
      break;
    case v1::PROVISIONING_THIN:
      request.provisioning = volume::Provisioning::kThin;
      break;
    case v1::PROVISIONING_THICK:
      request.provisioning = volume::Provisioning::kThick;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("provisioning: ", static_cast<int>(message.provisioning()),
                       " is unknown; give THIN or ", "THICK"));
  }
  request.labels = {message.labels().begin(), message.labels().end()};
  return request;
}

absl::StatusOr<volume::Format::State> ToFormatState(v1::Format::State state,
                                                    absl::string_view field) {
  switch (state) {
    case v1::Format::STATE_UNSPECIFIED:
      return volume::Format::State::kUnknown;
    case v1::Format::STATE_NEVER:
      return volume::Format::State::kNever;
    case v1::Format::STATE_FORMATTING:
      return volume::Format::State::kFormatting;
    case v1::Format::STATE_FORMATTED:
      return volume::Format::State::kFormatted;
    default:
      return absl::InvalidArgumentError(absl::StrCat(field, ": ", static_cast<int>(state),
                                                     " is unknown; give a state of Format.State"));
  }
}

absl::StatusOr<volume::Format> ToFormat(const v1::Format& message) {
  volume::Format format;
  UBLKD_ASSIGN_OR_RETURN(format.state, ToFormatState(message.state(), "format.state"));
  format.fs_type = message.fs_type();
  format.fs_uuid = message.fs_uuid();
  return format;
}

target::IoLimits ToLimits(const v1::DeviceLimits& message) {
  return {.iops = message.iops(),
          .burst_ios = message.burst_ios(),
          .bytes_per_second = message.bytes_per_second(),
          .burst_bytes = message.burst_bytes()};
}

absl::StatusOr<volume::DeviceSpec> ToDeviceSpec(const v1::DeviceSpec& message) {
  volume::DeviceSpec spec;
  switch (message.target_case()) {
    case v1::DeviceSpec::kNull:
      spec.target = volume::NullSpec{message.null().size_bytes()};
      break;
    case v1::DeviceSpec::kFile:
      spec.target = volume::FileSpec{message.file().path()};
      break;
    case v1::DeviceSpec::kVolume:
      spec.target = volume::VolumeSpec{message.volume().volume_id()};
      break;
    case v1::DeviceSpec::TARGET_NOT_SET:
      return absl::InvalidArgumentError(
          "spec.target: is missing or of a kind this ublkd does not know; give null, file or "
          "volume");
  }
  if (message.has_id()) spec.id = message.id();
  spec.queues = message.queues();
  spec.depth = message.depth();
  spec.threads_per_queue = message.threads_per_queue();
  spec.max_io_bytes = message.max_io_bytes();
  spec.logical_block_bytes = message.logical_block_bytes();
  spec.read_only = message.read_only();
  UBLKD_ASSIGN_OR_RETURN(spec.buffers, ToBufferMode(message.buffer_mode()));
  if (message.has_limits()) spec.limits = ToLimits(message.limits());
  if (message.has_fail_after_seconds()) spec.fail_after_seconds = message.fail_after_seconds();
  return spec;
}

v1::Volume FromVolume(const volume::Volume& volume, std::optional<volume::Attachment> attached) {
  const volume::VolumeRecord& record = volume.record;
  v1::Volume message;
  message.set_id(volume::FormatVolumeId(volume.pool, record.name));
  message.set_pool(volume.pool);
  message.set_name(record.name);
  message.set_size_bytes(record.size_bytes);
  message.set_allocated_bytes(volume.allocated_bytes);
  message.set_logical_block_bytes(record.logical_block_bytes);
  message.set_provisioning(record.provisioning == volume::Provisioning::kThick
                               ? v1::PROVISIONING_THICK
                               : v1::PROVISIONING_THIN);
  message.set_content(FromContent(volume.content));
  *message.mutable_format() = FromFormat(record.format);
  message.mutable_labels()->insert(record.labels.begin(), record.labels.end());
  if (attached.has_value()) {
    message.set_device_id(attached->device_id);
    message.set_device_size_bytes(attached->disk_bytes);
  }
  *message.mutable_created_at() = FromTime(record.created_at);
  message.set_generation(record.generation);
  return message;
}

v1::Pool FromPool(const volume::Pool& pool, const volume::PoolCapacity& capacity) {
  v1::Pool message;
  message.set_name(pool.name());
  message.set_type(std::string(pool.type()));
  message.set_path(pool.path());
  message.set_total_bytes(capacity.total_bytes);
  message.set_available_bytes(capacity.available_bytes);
  message.set_volumes(capacity.volumes);
  return message;
}

v1::Device FromDevice(const volume::DeviceView& view) {
  v1::Device message;
  message.set_id(view.id);
  message.set_path(view.path);
  message.set_major(view.major);
  message.set_minor(view.minor);
  message.set_reason(view.reason);
  message.set_foreign(view.foreign);
  message.set_server_pid(view.server_pid);
  message.set_state(FromDeviceState(view.state));
  message.set_size_bytes(view.size_bytes);
  if (view.foreign) return message;
  *message.mutable_spec() = FromSpec(view.spec);
  for (const std::string& feature : view.features) message.add_features(feature);
  *message.mutable_created_at() = FromTime(view.created_at);
  for (const volume::OpErrors& errors : view.errors) {
    v1::IoErrors& added = *message.add_io_errors();
    added.set_op(std::string(ublk::OpName(errors.op)));
    added.set_count(errors.count);
    added.set_last_errno(errors.last_errno);
    added.set_last_error(volume::ErrnoText(errors.last_errno));
  }
  message.set_oldest_request_seconds(absl::ToDoubleSeconds(view.oldest_request));
  return message;
}

}  // namespace ublkd::server
