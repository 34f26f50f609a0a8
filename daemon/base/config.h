// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace ublkd {

/// Gives `app` the option --config=FILE, a YAML file whose keys are the long names of the app's
/// other options ("metrics-address: 127.0.0.1:9500"; a list for an option that may be repeated).
/// A flag on the command line wins over the file; a key that is no option is an error.
void AddYamlConfig(CLI::App& app);

/// Gives `app` --version, which prints "<program> <version>".
void AddVersion(CLI::App& app, const std::string& program);

}  // namespace ublkd
