// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/volume_manager.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/status.h"

namespace ublkd::volume {
namespace {

constexpr size_t kTokenSealDigits = 8;

// FNV-1a, so that a token that was made up or belongs to another listing is told from ours. It is
// no secret.
uint32_t Seal(absl::string_view text) {
  constexpr uint32_t kOffset = 2166136261;
  constexpr uint32_t kPrime = 16777619;
  uint32_t hash = kOffset;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * kPrime;
  return hash;
}

// "<seal><id of the last volume that was listed>".
std::string MakeToken(absl::string_view pool, absl::string_view last_id) {
  return absl::StrCat(absl::StrFormat("%08x", Seal(absl::StrCat(pool, "\n", last_id))), last_id);
}

absl::StatusOr<std::string> ReadToken(absl::string_view pool, const std::string& token) {
  if (token.empty()) return std::string();
  if (token.size() > kTokenSealDigits) {
    const std::string last_id = token.substr(kTokenSealDigits);
    if (MakeToken(pool, last_id) == token) return last_id;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("page_token: \"", absl::CHexEscape(token.substr(0, kMaxIdBytes)),
                   "\" was not given by a listing of the same pool; begin without one"));
}

std::string VolumeKey(absl::string_view id) { return absl::StrCat("volume ", id); }

}  // namespace

absl::StatusOr<std::unique_ptr<VolumeManager>> VolumeManager::Make(
    std::vector<std::unique_ptr<Pool>> pools) {
  std::unique_ptr<VolumeManager> manager(new VolumeManager);
  for (std::unique_ptr<Pool>& pool : pools) {
    const std::string name = pool->name();
    if (!manager->pools_.emplace(name, std::move(pool)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("pool ", name, " is given twice; give each pool a name of its own"));
    }
  }
  return manager;
}

absl::StatusOr<Pool*> VolumeManager::FindPool(const std::string& name) const {
  if (name.empty()) {
    if (pools_.size() == 1) return pools_.begin()->second.get();
    return absl::InvalidArgumentError(
        pools_.empty() ? "pool: this ublkd has no pools; start it with --pool NAME=PATH"
                       : absl::StrCat("pool: is empty and there are several; name one of ",
                                      absl::StrJoin(pools_, ", ", [](std::string* out, auto& pool) {
                                        out->append(pool.first);
                                      })));
  }
  UBLKD_RETURN_IF_ERROR(CheckName(name, kMaxPoolNameBytes, "pool"));
  const auto found = pools_.find(name);
  if (found != pools_.end()) return found->second.get();
  return absl::NotFoundError(
      absl::StrCat("pool ", name, " does not exist; list the pools to see what there is"));
}

absl::StatusOr<std::pair<Pool*, std::string>> VolumeManager::Resolve(const std::string& id) const {
  UBLKD_ASSIGN_OR_RETURN(VolumeId parts, ParseVolumeId(id, "id"));
  UBLKD_ASSIGN_OR_RETURN(Pool* const pool, FindPool(parts.pool));
  return std::make_pair(pool, std::move(parts.name));
}

absl::StatusOr<InFlight::Lease> VolumeManager::Lock(const std::string& id) {
  return in_flight_.Enter(VolumeKey(id));
}

std::optional<Attachment> VolumeManager::AttachedTo(const std::string& id) const {
  return attachments_ != nullptr ? attachments_->AttachedTo(id) : std::nullopt;
}

absl::StatusOr<Volume> VolumeManager::Create(const std::string& pool_name,
                                             const VolumeRequest& request) {
  UBLKD_ASSIGN_OR_RETURN(Pool* const pool, FindPool(pool_name));
  UBLKD_RETURN_IF_ERROR(CheckRequest(pool->name(), request));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Lease lease,
                         Lock(FormatVolumeId(pool->name(), request.name)));
  return pool->Create(request);
}

absl::Status VolumeManager::Delete(const std::string& id) {
  // A pool that is not there is an error: its volumes may only be out of sight.
  UBLKD_ASSIGN_OR_RETURN(const auto where, Resolve(id));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Lease lease, Lock(id));
  if (const std::optional<Attachment> attached = AttachedTo(id)) {
    return absl::FailedPreconditionError(absl::StrCat("volume ", id, " is attached as /dev/ublkb",
                                                      attached->device_id,
                                                      "; delete that device first"));
  }
  return where.first->Delete(where.second);
}

absl::StatusOr<Volume> VolumeManager::Get(const std::string& id) const {
  UBLKD_ASSIGN_OR_RETURN(const auto where, Resolve(id));
  return where.first->Get(where.second);
}

absl::StatusOr<VolumeRecord> VolumeManager::Describe(const std::string& id) const {
  UBLKD_ASSIGN_OR_RETURN(const auto where, Resolve(id));
  return where.first->Describe(where.second);
}

absl::StatusOr<std::string> VolumeManager::Locate(const std::string& id) const {
  UBLKD_ASSIGN_OR_RETURN(const auto where, Resolve(id));
  return where.first->Locate(where.second);
}

absl::StatusOr<Volume> VolumeManager::SetFormat(const std::string& id, Format::State expected,
                                                const Format& format) {
  UBLKD_ASSIGN_OR_RETURN(const auto where, Resolve(id));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Lease lease, Lock(id));
  return where.first->SetFormat(where.second, expected, format);
}

absl::StatusOr<Volume> VolumeManager::Resize(const std::string& id, uint64_t size_bytes) {
  UBLKD_ASSIGN_OR_RETURN(const auto where, Resolve(id));
  UBLKD_ASSIGN_OR_RETURN(const InFlight::Lease lease, Lock(id));
  // The disk last: whoever serves it after a kill needs data and a record that are as large.
  UBLKD_ASSIGN_OR_RETURN(Volume volume, where.first->Resize(where.second, size_bytes));
  if (attachments_ != nullptr) {
    const absl::Status grown = attachments_->GrowDisk(id, volume.record.size_bytes);
    if (!grown.ok()) {
      return Annotate(grown, absl::StrCat("volume ", id, " has ", volume.record.size_bytes,
                                          " bytes now, but not yet its disk"));
    }
  }
  FailPoint("resize.done");
  return volume;
}

absl::StatusOr<VolumePage> VolumeManager::List(const std::string& pool_name, size_t limit,
                                               const std::string& token) const {
  UBLKD_ASSIGN_OR_RETURN(const std::string after, ReadToken(pool_name, token));
  std::vector<Pool*> pools;
  if (pool_name.empty()) {
    for (const auto& [name, pool] : pools_) pools.push_back(pool.get());
  } else {
    UBLKD_ASSIGN_OR_RETURN(Pool* const pool, FindPool(pool_name));
    pools.push_back(pool);
  }
  std::map<std::string, std::pair<Pool*, std::string>> rest;
  for (Pool* const pool : pools) {
    for (const std::string& name : pool->Names()) {
      std::string id = FormatVolumeId(pool->name(), name);
      if (id > after) rest.emplace(std::move(id), std::make_pair(pool, name));
    }
  }

  VolumePage page;
  std::string last_id;
  for (const auto& [id, where] : rest) {
    if (limit != 0 && page.volumes.size() == limit) {
      page.next_token = MakeToken(pool_name, last_id);
      break;
    }
    last_id = id;
    absl::StatusOr<Volume> volume = where.first->Get(where.second);
    // It was deleted meanwhile.
    if (!volume.ok()) continue;
    page.volumes.push_back(*std::move(volume));
  }
  return page;
}

const Pool* VolumeManager::PoolOf(const std::string& path) const {
  for (const auto& [name, pool] : pools_) {
    if (pool->Contains(path)) return pool.get();
  }
  return nullptr;
}

std::vector<const Pool*> VolumeManager::Pools() const {
  std::vector<const Pool*> pools;
  for (const auto& [name, pool] : pools_) pools.push_back(pool.get());
  return pools;
}

}  // namespace ublkd::volume
