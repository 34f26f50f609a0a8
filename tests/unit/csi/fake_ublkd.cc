// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/csi/fake_ublkd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"
#include "tests/unit/csi/loop_device.h"

namespace ublkd::csi {
namespace {

constexpr uint32_t kBlockBytes = 4096;
constexpr uint64_t kPoolBytes = 8ULL << 30;

// Whether a byte of the file was ever written.
api::Content ContentOf(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return api::CONTENT_UNSPECIFIED;
  if (lseek(file.get(), 0, SEEK_DATA) >= 0) return api::CONTENT_PRESENT;
  return errno == ENXIO ? api::CONTENT_EMPTY : api::CONTENT_UNSPECIFIED;
}

}  // namespace

FakeUblkd::FakeUblkd(std::string socket_path, std::string pools_folder)
    : socket_path_(std::move(socket_path)), pools_folder_(std::move(pools_folder)) {}

FakeUblkd::~FakeUblkd() {
  Stop();
  for (const auto& [id, entry] : volumes_) {
    if (!entry.device.path().empty()) DetachLoop(entry.device.path()).IgnoreError();
  }
}

void FakeUblkd::Start() {
  grpc::ServerBuilder builder;
  builder.RegisterService(static_cast<api::DeviceService::Service*>(this));
  builder.RegisterService(static_cast<api::VolumeService::Service*>(this));
  auto server = RpcServer::Start(builder, socket_path_);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

void FakeUblkd::Stop() { server_.reset(); }

void FakeUblkd::SetHook(Hook hook) {
  const std::lock_guard lock(hook_mutex_);
  hook_ = std::move(hook);
}

grpc::Status FakeUblkd::Serve(const std::string& method,
                              const std::function<absl::Status()>& body) {
  Hook hook;
  {
    const std::lock_guard lock(hook_mutex_);
    hook = hook_;
  }
  if (hook) hook(method + ":before");
  absl::Status status;
  {
    const std::lock_guard lock(mutex_);
    status = body();
  }
  if (hook) hook(method + ":after");
  return ToGrpc(status);
}

std::string FakeUblkd::FilePath(const std::string& id) const {
  return absl::StrCat(pools_folder_, "/", id);
}

absl::StatusOr<FakeUblkd::Entry*> FakeUblkd::Find(const std::string& id) {
  const auto found = volumes_.find(id);
  if (found == volumes_.end()) return absl::NotFoundError(absl::StrCat("no volume ", id));
  return &found->second;
}

void FakeUblkd::Fill(const Entry& entry, api::Volume& volume) {
  volume = entry.volume;
  volume.set_content(entry.content.value_or(ContentOf(FilePath(volume.id()))));
  if (!entry.device.path().empty()) volume.set_device_id(entry.device.id());
}

api::Volume FakeUblkd::Get(const std::string& id) {
  const std::lock_guard lock(mutex_);
  api::Volume volume;
  Fill(*Find(id).value(), volume);
  return volume;
}

void FakeUblkd::SetFormat(const std::string& id, const api::Format& format) {
  const std::lock_guard lock(mutex_);
  *Find(id).value()->volume.mutable_format() = format;
}

void FakeUblkd::SetContent(const std::string& id, std::optional<api::Content> content) {
  const std::lock_guard lock(mutex_);
  Find(id).value()->content = content;
}

void FakeUblkd::Resize(const std::string& id, uint64_t size_bytes) {
  const std::lock_guard lock(mutex_);
  Find(id).value()->volume.set_size_bytes(size_bytes);
  ASSERT_EQ(truncate(FilePath(id).c_str(), static_cast<off_t>(size_bytes)), 0);
}

grpc::Status FakeUblkd::CreateVolume(grpc::ServerContext*, const api::CreateVolumeRequest* request,
                                     api::Volume* volume) {
  return Serve("CreateVolume", [&]() -> absl::Status {
    const std::string id = absl::StrCat(request->pool(), "/", request->name());
    const uint32_t block = request->logical_block_bytes() != 0 ? request->logical_block_bytes()
                           : request->size_bytes() % kBlockBytes == 0 ? kBlockBytes
                                                                      : kBlockBytes / 8;
    if (id.size() > 128 || request->size_bytes() == 0 || request->size_bytes() % block != 0) {
      return absl::InvalidArgumentError("name or size_bytes");
    }
    if (volumes_.count(id) == 0) {
      if (request->size_bytes() > kPoolBytes) return absl::ResourceExhaustedError("pool is full");
      UBLKD_ASSIGN_OR_RETURN(const UniqueFd file,
                             OpenFile(FilePath(id), O_RDWR | O_CREAT | O_EXCL));
      if (ftruncate(file.get(), static_cast<off_t>(request->size_bytes())) != 0) {
        return ErrnoStatus(errno, "truncate");
      }
      api::Volume& made = volumes_[id].volume;
      made.set_id(id);
      made.set_pool(request->pool());
      made.set_name(request->name());
      made.set_size_bytes(request->size_bytes());
      made.set_logical_block_bytes(block);
      made.set_provisioning(request->provisioning());
      *made.mutable_labels() = request->labels();
      made.mutable_format()->set_state(api::Format::STATE_NEVER);
    }
    Fill(volumes_[id], *volume);
    return volume->size_bytes() == request->size_bytes() ? absl::OkStatus()
                                                         : absl::AlreadyExistsError("another size");
  });
}

grpc::Status FakeUblkd::DeleteVolume(grpc::ServerContext*, const api::DeleteVolumeRequest* request,
                                     api::DeleteVolumeResponse*) {
  return Serve("DeleteVolume", [&]() -> absl::Status {
    const auto found = volumes_.find(request->id());
    if (found == volumes_.end()) return absl::OkStatus();
    if (!found->second.device.path().empty()) {
      return absl::FailedPreconditionError(absl::StrCat("volume ", request->id(), " is attached"));
    }
    unlink(FilePath(request->id()).c_str());
    volumes_.erase(found);
    return absl::OkStatus();
  });
}

grpc::Status FakeUblkd::GetVolume(grpc::ServerContext*, const api::GetVolumeRequest* request,
                                  api::Volume* volume) {
  return Serve("GetVolume", [&]() -> absl::Status {
    UBLKD_ASSIGN_OR_RETURN(const Entry* entry, Find(request->id()));
    Fill(*entry, *volume);
    return absl::OkStatus();
  });
}

grpc::Status FakeUblkd::ListVolumes(grpc::ServerContext*, const api::ListVolumesRequest* request,
                                    api::ListVolumesResponse* response) {
  return Serve("ListVolumes", [&]() -> absl::Status {
    uint32_t begin = 0;
    if (!request->page_token().empty() && !absl::SimpleAtoi(request->page_token(), &begin)) {
      return absl::InvalidArgumentError("page_token");
    }
    uint32_t index = 0;
    for (const auto& [id, entry] : volumes_) {
      if (index++ < begin) continue;
      if (request->page_size() != 0 &&
          response->volumes_size() == static_cast<int>(request->page_size())) {
        response->set_next_page_token(absl::StrCat(index - 1));
        break;
      }
      Fill(entry, *response->add_volumes());
    }
    return absl::OkStatus();
  });
}

grpc::Status FakeUblkd::SetVolumeFormat(grpc::ServerContext*,
                                        const api::SetVolumeFormatRequest* request,
                                        api::Volume* volume) {
  return Serve("SetVolumeFormat", [&]() -> absl::Status {
    UBLKD_ASSIGN_OR_RETURN(Entry * entry, Find(request->id()));
    const auto now = entry->volume.format().state();
    const bool to_formatted = request->format().state() == api::Format::STATE_FORMATTED;
    if (now != request->expected_state()) return absl::FailedPreconditionError("other state");
    if ((now == api::Format::STATE_FORMATTED || now == api::Format::STATE_UNSPECIFIED) &&
        !to_formatted) {
      return absl::FailedPreconditionError("may hold data");
    }
    *entry->volume.mutable_format() = request->format();
    Fill(*entry, *volume);
    return absl::OkStatus();
  });
}

grpc::Status FakeUblkd::ListPools(grpc::ServerContext*, const api::ListPoolsRequest*,
                                  api::ListPoolsResponse* response) {
  return Serve("ListPools", [&]() -> absl::Status {
    UBLKD_ASSIGN_OR_RETURN(const auto names, ListDirectory(pools_folder_));
    for (const std::string& name : names) {
      api::Pool& pool = *response->add_pools();
      pool.set_name(name);
      pool.set_type("file");
      pool.set_total_bytes(kPoolBytes);
      pool.set_available_bytes(kPoolBytes);
    }
    return absl::OkStatus();
  });
}

grpc::Status FakeUblkd::CreateDevice(grpc::ServerContext*, const api::CreateDeviceRequest* request,
                                     api::Device* device) {
  return Serve("CreateDevice", [&]() -> absl::Status {
    const std::string& id = request->spec().volume().volume_id();
    UBLKD_ASSIGN_OR_RETURN(Entry * entry, Find(id));
    if (entry->device.path().empty()) {
      UBLKD_ASSIGN_OR_RETURN(const LoopDevice loop,
                             AttachLoop(FilePath(id), request->spec().read_only(),
                                        entry->volume.logical_block_bytes()));
      ++attach_count_;
      entry->device.set_id(static_cast<uint32_t>(loop.index));
      entry->device.set_path(loop.path);
      entry->device.set_major(loop.major);
      entry->device.set_minor(loop.minor);
      entry->device.set_size_bytes(entry->volume.size_bytes());
      entry->device.set_state(api::Device::STATE_LIVE);
      *entry->device.mutable_spec() = request->spec();
    }
    if (entry->device.spec().read_only() != request->spec().read_only()) {
      return absl::AlreadyExistsError("attached in another way");
    }
    *device = entry->device;
    return absl::OkStatus();
  });
}

grpc::Status FakeUblkd::DeleteDevice(grpc::ServerContext*, const api::DeleteDeviceRequest* request,
                                     api::DeleteDeviceResponse*) {
  return Serve("DeleteDevice", [&]() -> absl::Status {
    for (auto& [id, entry] : volumes_) {
      if (entry.device.path().empty() || entry.device.id() != request->id()) continue;
      UBLKD_RETURN_IF_ERROR(DetachLoop(entry.device.path()));
      entry.device.Clear();
    }
    return absl::OkStatus();
  });
}

grpc::Status FakeUblkd::GetDevice(grpc::ServerContext*, const api::GetDeviceRequest* request,
                                  api::Device* device) {
  return Serve("GetDevice", [&]() -> absl::Status {
    for (const auto& [id, entry] : volumes_) {
      if (entry.device.path().empty() || entry.device.id() != request->id()) continue;
      *device = entry.device;
      return absl::OkStatus();
    }
    return absl::NotFoundError(absl::StrCat("no device ", request->id()));
  });
}

grpc::Status FakeUblkd::GetServerInfo(grpc::ServerContext*, const api::GetServerInfoRequest*,
                                      api::ServerInfo* info) {
  return Serve("GetServerInfo", [&] {
    info->set_ready(true);
    return absl::OkStatus();
  });
}

}  // namespace ublkd::csi
