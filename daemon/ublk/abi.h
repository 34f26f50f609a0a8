// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The ublk ABI, for the files of this folder alone: what others may see of it is in the other
/// headers under our own names.
#include "driver/uapi/ublk_cmd.h"
