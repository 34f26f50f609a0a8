// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/ctl/canned_server.h"

#include <google/protobuf/text_format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>

namespace ublkd::ctl {
namespace {

constexpr char kDevices[] = R"pb(
  devices {
    id: 0
    path: "/dev/ublkb0"
    major: 259
    minor: 0
    state: STATE_LIVE
    server_pid: 4711
    spec {
      volume { volume_id: "fast/db" }
      id: 0
      queues: 2
      depth: 128
      max_io_bytes: 524288
      logical_block_bytes: 4096
      limits {}
      buffer_mode: BUFFER_MODE_COPY
      fail_after_seconds: 90
      threads_per_queue: 1
    }
    size_bytes: 10737418240
    features: "USER_COPY"
    features: "CMD_IOCTL_ENCODE"
    created_at { seconds: 1769860800 }
  }
  devices {
    id: 12
    path: "/dev/ublkb12"
    major: 259
    minor: 7
    state: STATE_QUIESCED
    spec {
      file { path: "/srv/images/golden.img" }
      id: 12
      queues: 1
      depth: 64
      max_io_bytes: 65536
      logical_block_bytes: 512
      read_only: true
      limits { iops: 1000 burst_ios: 100 bytes_per_second: 10485760 burst_bytes: 1048576 }
      buffer_mode: BUFFER_MODE_USER_COPY
      threads_per_queue: 4
    }
    size_bytes: 1610612736
    created_at { seconds: 1769864461 }
  })pb";

constexpr char kVolumes[] = R"pb(
  volumes {
    id: "bulk/archive"
    pool: "bulk"
    name: "archive"
    size_bytes: 1099511627776
    allocated_bytes: 1099511627776
    logical_block_bytes: 4096
    provisioning: PROVISIONING_THICK
    content: CONTENT_PRESENT
    created_at { seconds: 1767225600 }
    generation: 9
  }
  volumes {
    id: "fast/db"
    pool: "fast"
    name: "db"
    size_bytes: 10737418240
    allocated_bytes: 1288490188
    logical_block_bytes: 4096
    provisioning: PROVISIONING_THIN
    content: CONTENT_PRESENT
    format {
      state: STATE_FORMATTED
      fs_type: "ext4"
      fs_uuid: "0b1e4f3a-2f3c-4d9e-9c39-5a3f3c1d2e4b"
      changed_at { seconds: 1769860801 }
    }
    labels { key: "team" value: "search" }
    labels { key: "app" value: "pg" }
    device_id: 0
    created_at { seconds: 1769860700 }
    generation: 3
  }
  volumes {
    id: "fast/log"
    pool: "fast"
    name: "log"
    size_bytes: 536870912
    logical_block_bytes: 512
    provisioning: PROVISIONING_THIN
    content: CONTENT_EMPTY
    format { state: STATE_NEVER }
    created_at { seconds: 1769860702 }
    generation: 1
  })pb";

constexpr char kPools[] = R"pb(
  pools {
    name: "bulk"
    type: "file"
    path: "/srv/bulk"
    total_bytes: 4398046511104
    available_bytes: 3298534883328
    volumes: 1
  }
  pools {
    name: "fast"
    type: "file"
    path: "/var/lib/ublkd/pools/fast"
    total_bytes: 107374182400
    available_bytes: 96099893248
    volumes: 2
  })pb";

constexpr char kInfo[] = R"pb(
  version: "0.1.0"
  kernel: "6.1.0-40-cloud-amd64"
  driver_version: "0.1.0"
  driver_features: "CMD_IOCTL_ENCODE"
  driver_features: "USER_RECOVERY"
  ready: true
  guard_connected: true)pb";

template <typename Message>
Message Parse(const char* text) {
  Message message;
  if (!google::protobuf::TextFormat::ParseFromString(text, &message)) abort();
  return message;
}

grpc::Status NotFound(const std::string& what) {
  return {grpc::StatusCode::NOT_FOUND, "there is no " + what + "; look with a list"};
}

// What every call begins with.
grpc::Status Begin(const CannedState& state, grpc::ServerContext* context) {
  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock lock(mutex);
  // gRPC tells a synchronous service of a cancelled call only when it asks.
  while (state.hang && !context->IsCancelled()) never.wait_for(lock, std::chrono::milliseconds(5));
  return state.refusal.value_or(grpc::Status::OK);
}

}  // namespace

grpc::Status CannedDevices::CreateDevice(grpc::ServerContext* context,
                                         const v1::CreateDeviceRequest* request,
                                         v1::Device* device) {
  state_.create_device = *request;
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  *device = state_.devices.front();
  *device->mutable_spec() = request->spec();
  return grpc::Status::OK;
}

grpc::Status CannedDevices::DeleteDevice(grpc::ServerContext* context,
                                         const v1::DeleteDeviceRequest* request,
                                         v1::DeleteDeviceResponse*) {
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  state_.deleted_devices.push_back(request->id());
  return grpc::Status::OK;
}

grpc::Status CannedDevices::ResizeDevice(grpc::ServerContext* context,
                                         const v1::ResizeDeviceRequest* request,
                                         v1::Device* device) {
  state_.resize_device = *request;
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  *device = state_.devices.front();
  if (request->size_bytes() != 0) device->set_size_bytes(request->size_bytes());
  return grpc::Status::OK;
}

grpc::Status CannedDevices::GetDevice(grpc::ServerContext* context,
                                      const v1::GetDeviceRequest* request, v1::Device* device) {
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  for (const v1::Device& known : state_.devices) {
    if (known.id() == request->id()) *device = known;
  }
  if (device->path().empty()) return NotFound("device " + std::to_string(request->id()));
  return grpc::Status::OK;
}

grpc::Status CannedDevices::SetDeviceLimits(grpc::ServerContext* context,
                                            const v1::SetDeviceLimitsRequest* request,
                                            v1::Device* device) {
  state_.set_limits = *request;
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  for (const v1::Device& known : state_.devices) {
    if (known.id() == request->id()) *device = known;
  }
  *device->mutable_spec()->mutable_limits() = request->limits();
  return grpc::Status::OK;
}

grpc::Status CannedDevices::ListDevices(grpc::ServerContext* context,
                                        const v1::ListDevicesRequest* request,
                                        v1::ListDevicesResponse* answer) {
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  for (const v1::Device& device : state_.devices) {
    if (request->all() || !device.foreign()) *answer->add_devices() = device;
  }
  return grpc::Status::OK;
}

grpc::Status CannedDevices::GetServerInfo(grpc::ServerContext* context,
                                          const v1::GetServerInfoRequest*, v1::ServerInfo* info) {
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  *info = state_.info;
  return grpc::Status::OK;
}

grpc::Status CannedVolumes::CreateVolume(grpc::ServerContext* context,
                                         const v1::CreateVolumeRequest* request,
                                         v1::Volume* volume) {
  state_.create_volume = *request;
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  const std::string pool = request->pool().empty() ? "fast" : request->pool();
  volume->set_id(pool + "/" + request->name());
  volume->set_size_bytes(request->size_bytes());
  return grpc::Status::OK;
}

grpc::Status CannedVolumes::DeleteVolume(grpc::ServerContext* context,
                                         const v1::DeleteVolumeRequest* request,
                                         v1::DeleteVolumeResponse*) {
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  for (const v1::Volume& volume : state_.volumes) {
    if (volume.id() == request->id() && volume.has_device_id()) {
      return {grpc::StatusCode::FAILED_PRECONDITION,
              "volume " + volume.id() + " is attached; detach it first"};
    }
  }
  state_.deleted_volumes.push_back(request->id());
  return grpc::Status::OK;
}

grpc::Status CannedVolumes::ResizeVolume(grpc::ServerContext* context,
                                         const v1::ResizeVolumeRequest* request,
                                         v1::Volume* volume) {
  state_.resize_volume = *request;
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  for (const v1::Volume& known : state_.volumes) {
    if (known.id() == request->id()) *volume = known;
  }
  volume->set_size_bytes(request->size_bytes());
  return grpc::Status::OK;
}

grpc::Status CannedVolumes::GetVolume(grpc::ServerContext* context,
                                      const v1::GetVolumeRequest* request, v1::Volume* volume) {
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  for (const v1::Volume& known : state_.volumes) {
    if (known.id() == request->id()) *volume = known;
  }
  return volume->id().empty() ? NotFound("volume " + request->id()) : grpc::Status::OK;
}

grpc::Status CannedVolumes::ListVolumes(grpc::ServerContext* context,
                                        const v1::ListVolumesRequest* request,
                                        v1::ListVolumesResponse* answer) {
  state_.list_volumes.push_back(*request);
  ++state_.list_volumes_begun;
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  std::vector<v1::Volume> wanted;
  for (const v1::Volume& volume : state_.volumes) {
    if (request->pool().empty() || volume.pool() == request->pool()) wanted.push_back(volume);
  }
  const size_t begin = request->page_token().empty() ? 0 : std::stoul(request->page_token());
  const size_t end = std::min(wanted.size(), begin + state_.page_volumes);
  for (size_t i = begin; i < end; ++i) *answer->add_volumes() = wanted[i];
  if (end < wanted.size()) answer->set_next_page_token(std::to_string(end));
  return grpc::Status::OK;
}

grpc::Status CannedVolumes::ListPools(grpc::ServerContext* context, const v1::ListPoolsRequest*,
                                      v1::ListPoolsResponse* answer) {
  if (grpc::Status status = Begin(state_, context); !status.ok()) return status;
  for (const v1::Pool& pool : state_.pools) *answer->add_pools() = pool;
  return grpc::Status::OK;
}

void CtlTest::SetUp() {
  std::string name = testing::TempDir() + "ublkctl-XXXXXX";
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  folder_ = name;
  const auto devices = Parse<v1::ListDevicesResponse>(kDevices);
  const auto volumes = Parse<v1::ListVolumesResponse>(kVolumes);
  const auto pools = Parse<v1::ListPoolsResponse>(kPools);
  state_.devices.assign(devices.devices().begin(), devices.devices().end());
  state_.volumes.assign(volumes.volumes().begin(), volumes.volumes().end());
  state_.pools.assign(pools.pools().begin(), pools.pools().end());
  state_.info = Parse<v1::ServerInfo>(kInfo);
  grpc::ServerBuilder builder;
  builder.RegisterService(&devices_);
  builder.RegisterService(&volumes_);
  auto server = RpcServer::Start(builder, socket());
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

void CtlTest::TearDown() {
  server_.reset();
  std::filesystem::remove_all(folder_);
}

Result CtlTest::Run(const std::vector<std::string>& arguments, Stdout stdout_kind) {
  std::vector<std::string> command = {UBLKCTL_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return RunProgram(command, {{"UBLKD_SOCKET", socket()}, {"TERM", "xterm"}}, stdout_kind);
}

}  // namespace ublkd::ctl
