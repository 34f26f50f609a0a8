// SPDX-License-Identifier: Apache-2.0
#include "daemon/uninstall/kube_api.h"

#include <curl/curl.h>

#include <array>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"

namespace ublkd::uninstall {
namespace {

enum HttpStatus : long { kOk = 200, kUnauthorized = 401, kForbidden = 403, kGone = 410 };

using Curl = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;
using Headers = std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)>;

struct Answer {
  std::string body;
  bool too_long = false;
};

size_t Append(char* data, size_t /*one*/, size_t bytes, void* into) {
  auto& answer = *static_cast<Answer*>(into);
  if (answer.body.size() + bytes > KubeApi::kMostAnswerBytes) {
    answer.too_long = true;
    return 0;
  }
  answer.body.append(data, bytes);
  return bytes;
}

absl::Status FromHttp(long status, const std::string& url) {
  const std::string what = absl::StrCat("GET ", url, ": HTTP status ", status);
  switch (status) {
    case kOk:
      return absl::OkStatus();
    case kUnauthorized:
    case kForbidden:
      return absl::PermissionDeniedError(
          absl::StrCat(what, "; the service account must be allowed to list what is asked for"));
    case kGone:
      return absl::AbortedError(absl::StrCat(what, "; the list has changed too much"));
    default:
      return absl::UnavailableError(what);
  }
}

}  // namespace

absl::StatusOr<std::string> UrlOfApi(absl::string_view host, absl::string_view port) {
  if (host.empty() || port.empty()) {
    return absl::InvalidArgumentError(
        "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; run it in a pod, or give "
        "--api");
  }
  const bool v6 = absl::StrContains(host, ":") && !absl::StartsWith(host, "[");
  return absl::StrCat("https://", v6 ? "[" : "", host, v6 ? "]" : "", ":", port);
}

std::string EscapeForUrl(absl::string_view text) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string escaped;
  for (const char letter : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(letter)) ||
        absl::StrContains("-._~", letter)) {
      escaped.push_back(letter);
      continue;
    }
    const auto byte = static_cast<unsigned char>(letter);
    escaped.append({'%', kDigits[byte >> 4], kDigits[byte & 0xf]});
  }
  return escaped;
}

absl::StatusOr<std::string> KubeApi::Get(absl::string_view path) const {
  // Read each time: kubelet replaces it.
  UBLKD_ASSIGN_OR_RETURN(const std::string token, ReadFile(options_.token_file));
  const Curl curl(curl_easy_init(), &curl_easy_cleanup);
  if (curl == nullptr) return absl::ResourceExhaustedError("no memory for a connection");
  const std::string url = absl::StrCat(options_.url, path);
  const Headers headers(
      curl_slist_append(
          nullptr,
          absl::StrCat("Authorization: Bearer ", absl::StripAsciiWhitespace(token)).c_str()),
      &curl_slist_free_all);
  std::array<char, CURL_ERROR_SIZE> reason{};
  Answer answer;
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "https");
  curl_easy_setopt(curl.get(), CURLOPT_CAINFO, options_.ca_file.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_CAPATH, nullptr);
  // The API is in the cluster, and the token is nobody else's.
  curl_easy_setopt(curl.get(), CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(options_.limit)));
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, reason.data());
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &Append);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &answer);
  const CURLcode result = curl_easy_perform(curl.get());
  if (answer.too_long) {
    return absl::ResourceExhaustedError(
        absl::StrCat("GET ", url, ": the answer is longer than ", kMostAnswerBytes, " bytes"));
  }
  if (result != CURLE_OK) {
    const bool told = reason[0] != '\0';
    return absl::UnavailableError(
        absl::StrCat("GET ", url, ": ", told ? reason.data() : curl_easy_strerror(result)));
  }
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  UBLKD_RETURN_IF_ERROR(FromHttp(status, url));
  return std::move(answer.body);
}

}  // namespace ublkd::uninstall
