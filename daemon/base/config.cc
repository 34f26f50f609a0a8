// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/config.h"

#include <yaml-cpp/yaml.h>

#include <istream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/version.h"

namespace ublkd {
namespace {

// Reads the flat mapping that AddYamlConfig describes; CLI11 reports what is thrown here as a
// mistake in the file.
class YamlFormat : public CLI::Config {
 public:
  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return ""; }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    try {
      return Read(YAML::Load(input));
    } catch (const YAML::Exception& error) {
      throw CLI::FileError(
          absl::StrCat("the configuration file is not valid YAML: ", error.what()));
    }
  }

 private:
  static std::vector<CLI::ConfigItem> Read(const YAML::Node& root) {
    std::vector<CLI::ConfigItem> items;
    if (root.IsNull()) return items;
    if (!root.IsMap()) {
      throw CLI::FileError("the configuration file must be a mapping of option names to values");
    }
    for (const auto& entry : root) {
      CLI::ConfigItem item;
      item.name = entry.first.as<std::string>();
      if (entry.second.IsSequence()) {
        for (const auto& value : entry.second) item.inputs.push_back(value.as<std::string>());
      } else if (entry.second.IsScalar()) {
        item.inputs.push_back(entry.second.as<std::string>());
      } else {
        throw CLI::FileError(absl::StrCat("the configuration file's \"", item.name,
                                          "\" must be a value or a list of values"));
      }
      items.push_back(std::move(item));
    }
    return items;
  }
};

}  // namespace

void AddYamlConfig(CLI::App& app) {
  app.config_formatter(std::make_shared<YamlFormat>());
  app.set_config("--config", "", "YAML file with long option names as keys; flags win over it")
      ->check(CLI::ExistingFile);
  app.allow_config_extras(CLI::config_extras_mode::error);
}

void AddVersion(CLI::App& app, const std::string& program) {
  app.set_version_flag("--version", absl::StrCat(program, " ", kVersion));
}

}  // namespace ublkd
