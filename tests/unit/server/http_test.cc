// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server/http_client.h"
#include "tests/unit/volume/matchers.h"

namespace ublkd::server {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using volume::IsOk;
using volume::Refused;

TEST(HttpServer, AnswersWhatItKnowsAndRefusesTheRest) {
  auto server =
      HttpServer::Start({"127.0.0.1", 0}, {{"/a",
                                            [] {
                                              return HttpResponse{200, "text/plain", "body-of-a"};
                                            }},
                                           {"/b", [] {
                                              return HttpResponse{503, "text/plain", "not yet"};
                                            }}});
  ASSERT_THAT(server, IsOk());
  const uint16_t port = (*server)->port();
  ASSERT_NE(port, 0);

  EXPECT_THAT(Get(port, "/a"), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(Get(port, "/a"), EndsWith("\r\n\r\nbody-of-a"));
  EXPECT_THAT(Get(port, "/a?x=1"), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(Get(port, "/b"), StartsWith("HTTP/1.1 503 "));
  const std::string head = SendRaw(port, "HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 9\r\n"));
  EXPECT_THAT(head, Not(HasSubstr("body-of-a")));
  for (const std::string path : {"/", "/A", "/a/", "/../etc/passwd", "/%61", "//a", "/a/../a/x"}) {
    EXPECT_THAT(Get(port, path), Not(HasSubstr("passwd:"))) << path;
    EXPECT_THAT(Get(port, path), Not(StartsWith("HTTP/1.1 5"))) << path;
  }
  EXPECT_THAT(Get(port, "/none"), StartsWith("HTTP/1.1 404 "));
  for (const std::string method : {"POST", "PUT", "DELETE", "OPTIONS", "PATCH"}) {
    const std::string answer =
        SendRaw(port, method + " /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 405 ")) << method;
    EXPECT_THAT(answer, HasSubstr("Allow: GET, HEAD")) << method;
  }
  // What is no HTTP gets an error or nothing, and the server goes on.
  for (const std::string& odd :
       {std::string("\r\n\r\n"), std::string("GET\r\n\r\n"),
        std::string("BREW /a HTTP/1.1\r\n\r\n"), std::string("\0\1\2\3", 4),
        std::string("GET /a HTTP/9.9\r\n\r\n"), std::string(100'000, 'x'),
        "GET /" + std::string(100'000, 'x') + " HTTP/1.1\r\n\r\n"}) {
    EXPECT_THAT(SendRaw(port, odd), Not(HasSubstr("body-of-a")));
  }
  EXPECT_THAT(Get(port, "/a"), EndsWith("body-of-a"));

  EXPECT_THAT(HttpServer::Start({"127.0.0.1", port}, {}),
              Refused(absl::StatusCode::kUnavailable, "port is taken"));
}

}  // namespace
}  // namespace ublkd::server
