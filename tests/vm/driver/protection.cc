// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/protection.h"

#include <cstring>
#include <span>
#include <vector>

namespace ublkd::driver_test {
namespace {

constexpr uint16_t kCrc16Polynomial = 0x8bb7;
constexpr uint64_t kCrc64Polynomial = 0x9a6c9329ac4bc9b5;  // bits reversed

uint16_t Crc16(std::span<const std::byte> data) {
  uint16_t crc = 0;
  for (const std::byte byte : data) {
    crc = static_cast<uint16_t>(crc ^ static_cast<uint16_t>(byte) << 8);
    for (int bit = 0; bit < 8; ++bit) {
      crc = static_cast<uint16_t>((crc & 0x8000) != 0 ? crc << 1 ^ kCrc16Polynomial : crc << 1);
    }
  }
  return crc;
}

uint64_t Crc64(std::span<const std::byte> data) {
  uint64_t crc = ~uint64_t{0};
  for (const std::byte byte : data) {
    crc ^= static_cast<uint64_t>(byte);
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc & 1) != 0 ? crc >> 1 ^ kCrc64Polynomial : crc >> 1;
    }
  }
  return ~crc;
}

// As in the header of an IP packet.
uint16_t IpChecksum(std::span<const std::byte> data) {
  uint32_t sum = 0;
  for (size_t i = 0; i < data.size(); i += 2) {
    sum += static_cast<uint32_t>(data[i]) << 8 | static_cast<uint32_t>(data[i + 1]);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<uint16_t>(~sum);
}

void PutBigEndian(std::byte* at, size_t bytes, uint64_t value) {
  for (; bytes > 0; value >>= 8) at[--bytes] = static_cast<std::byte>(value);
}

}  // namespace

ublk_params Protection::Params(const Geometry& geometry) const {
  ublk_params params = ParamsOf(geometry);
  params.types |= UBLK_PARAM_TYPE_INTEGRITY;
  params.integrity.flags = UBLK_PI_CAP_INTEGRITY | UBLK_PI_CAP_REFTAG;
  params.integrity.interval_exp = block_shift;
  params.integrity.metadata_size = metadata_bytes;
  params.integrity.pi_offset = offset;
  params.integrity.csum_type = csum_type;
  return params;
}

uint64_t Protection::Checksum(const std::byte* data) const {
  std::vector<std::byte> covered(block() + offset);
  std::memcpy(covered.data(), data, block());
  switch (csum_type) {
    case UBLK_PI_CSUM_CRC64:
      return Crc64(covered);
    case UBLK_PI_CSUM_IP:
      return IpChecksum(covered);
    default:
      return Crc16(covered);
  }
}

void Protection::Make(uint64_t checksum, uint64_t block_number, std::byte* metadata) const {
  const bool wide = csum_type == UBLK_PI_CSUM_CRC64;
  constexpr size_t kApplicationTag = 2;
  const size_t checksum_bytes = wide ? 8 : 2;
  std::memset(metadata, 0, metadata_bytes);
  PutBigEndian(metadata + offset, checksum_bytes, checksum);
  PutBigEndian(metadata + offset + checksum_bytes + kApplicationTag, wide ? 6 : 4, block_number);
}

}  // namespace ublkd::driver_test
