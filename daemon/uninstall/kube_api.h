// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ublkd::uninstall {

struct KubeApiOptions {
  /// "https://10.0.0.1:443"; the server must have a certificate of `ca_file`.
  std::string url;
  /// What a service account shows, and the certificates of the cluster, as kubelet gives them to a
  /// pod.
  std::string token_file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
  std::string ca_file = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
  /// For one call.
  absl::Duration limit = absl::Seconds(30);
};

/// The address of the API as `host` and `port`, which kubelet gives to each container as
/// KUBERNETES_SERVICE_HOST and _PORT. INVALID_ARGUMENT: one is empty.
absl::StatusOr<std::string> UrlOfApi(absl::string_view host, absl::string_view port);

/// The part of a URL that stands for any text.
std::string EscapeForUrl(absl::string_view text);

/// Reads from the API of the cluster. One thread.
class KubeApi {
 public:
  /// What an answer may have; a page of 500 volumes has a thousandth of it.
  static constexpr size_t kMostAnswerBytes = size_t{64} << 20;

  explicit KubeApi(KubeApiOptions options) : options_(std::move(options)) {}

  /// The body of the answer to GET `path` ("/api/v1/...").
  /// UNAVAILABLE: nobody answers, or not as it should be. PERMISSION_DENIED: the account may not.
  /// ABORTED: the list of which this is a part is gone; begin again. RESOURCE_EXHAUSTED: too long.
  absl::StatusOr<std::string> Get(absl::string_view path) const;

 private:
  const KubeApiOptions options_;
};

}  // namespace ublkd::uninstall
