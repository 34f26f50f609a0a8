// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "daemon/ublk/abi.h"
#include "daemon/ublk/control.h"

namespace ublkd::ublk {

/// What SET_PARAMS is given for a complete geometry.
ublk_params EncodeParameters(const Geometry& geometry, uint32_t max_io_bytes);

/// What GET_PARAMS has answered.
Parameters DecodeParameters(const ublk_params& params);

}  // namespace ublkd::ublk
